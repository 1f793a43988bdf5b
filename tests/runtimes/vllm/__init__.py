"""vLLM: found, made, and models opened in it."""
