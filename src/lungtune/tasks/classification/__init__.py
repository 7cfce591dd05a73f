"""One label a case."""
