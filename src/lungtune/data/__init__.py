"""Cases, sources, scan, audit, splits and pixel stores. Does not import torch."""
