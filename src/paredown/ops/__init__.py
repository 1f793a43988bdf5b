"""The mathematics: pure functions on tensors. No config objects, devices, logging or hooks."""
