"""Measurements, each a command of its own; what several of them need stands in server.py and pictures.py."""
