"""The nouns: what a model, a strategy, a target, a run and a result are. No torch."""
