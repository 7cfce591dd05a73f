"""Terminal output of a search."""
