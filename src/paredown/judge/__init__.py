"""What is good, once: quantities, limits, the front, and what is recommended. No torch."""
