"""Cases, sources, scan, audit, splits and pixel stores. Never imports torch."""
