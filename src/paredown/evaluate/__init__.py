"""Measurements of artifacts as they will run: quality, latency, memory, size."""
