"""Captions that were made before."""
