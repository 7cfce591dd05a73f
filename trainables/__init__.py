"""Model families: one public module each, discovered by file name."""
