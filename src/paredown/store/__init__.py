"""Experiment folders, atomic files, the event log and the result cache. No torch."""
