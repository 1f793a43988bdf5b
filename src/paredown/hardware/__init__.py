"""Machines: what this one has, and what others would need. No torch."""
