"""The same search as lungtune's, written with stock pieces: what ``peer_search.py`` and ``packing.py`` compare with."""
