"""Torch: the pack and the slot-aware layers, losses, augmentation and checkpoints it is made of."""
