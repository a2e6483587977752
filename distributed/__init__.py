"""The service beyond one machine, on Ray: `serve_app.py` answers requests, `bulk.py` captions tables of pictures."""
