"""Backends, see ``search.backend``: one module or folder each, found by name."""
