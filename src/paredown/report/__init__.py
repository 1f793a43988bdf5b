"""What an experiment found: front, recommendation, tables, figures and reports. No torch."""
