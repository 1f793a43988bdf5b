"""What to try next: the space of strategies and the policies that walk it."""
