"""Where trials train."""
