"""Trials in their own processes: compress, verify, evaluate."""
