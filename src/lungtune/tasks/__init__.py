"""Tasks: losses, metrics, baselines and reports of what a family is trained for."""
