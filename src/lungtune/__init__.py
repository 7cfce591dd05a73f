"""lungtune: honest, resumable hyperparameter search for chest-imaging models."""
