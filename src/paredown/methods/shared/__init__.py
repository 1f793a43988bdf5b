"""What several methods have in common. Not methods themselves."""
