"""What a user sees of a search."""
