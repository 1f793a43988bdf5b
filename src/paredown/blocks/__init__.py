"""A model block by block: walked, measured, changed, and written again."""
