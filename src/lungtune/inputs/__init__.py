"""Inputs of a training step: on-the-fly augmentation, cached features, the training pool."""
