"""Layers of many trials at once: which rows are whose, LoRA, dropout, attention, whole networks."""
