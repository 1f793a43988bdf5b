"""Experiments shown in trackers; the experiment's folder is the truth, a tracker has a copy."""
