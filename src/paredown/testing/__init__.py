"""For authors of methods: tiny models, and tests that every method has to pass."""
