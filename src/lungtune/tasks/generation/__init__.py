"""Images drawn for a class."""
