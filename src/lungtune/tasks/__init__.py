"""Tasks: losses, metrics, baselines and reports, one folder per task."""
