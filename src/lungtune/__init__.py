"""lungtune: honest, resumable hyperparameter search for chest-imaging models."""

__version__ = "0.1.0"
