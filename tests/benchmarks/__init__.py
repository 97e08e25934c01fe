"""Timings of whole programs; run by hand, never by pytest."""
