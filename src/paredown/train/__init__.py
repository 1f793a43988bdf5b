"""Training: loops, what can be trained, and recovery after compression."""
