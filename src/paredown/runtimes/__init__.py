"""Engines that open an artifact, score, time and serve it; one module or folder each."""
