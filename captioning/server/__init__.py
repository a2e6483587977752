"""gunicorn: the worker, its log and the allocator."""
