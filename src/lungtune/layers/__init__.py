"""Layers for many trials at once: batch layout, LoRA, dropout, attention, whole networks."""
