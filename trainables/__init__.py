"""Model families: one public module each, found by file name."""
