"""Pooling layers: `functional.pooling` does the work."""
