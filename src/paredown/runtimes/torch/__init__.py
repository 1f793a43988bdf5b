"""The engine of `paredown.load`: packed weights in transformers models, on torch's kernels."""
