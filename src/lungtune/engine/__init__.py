"""Training loop: packs of trials, their parameters, optimiser, memory, checkpoints, sessions."""
