"""Experiments in the browser, live. Reads the folders and decides nothing. No torch."""
