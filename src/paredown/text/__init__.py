"""Texts and pictures, their parts that never overlap, and windows of token ids."""
