"""Fronts, volumes, knees and standard errors: arrays in, arrays out. No torch."""
