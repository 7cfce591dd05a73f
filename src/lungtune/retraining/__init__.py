"""Retraining a recipe: runs, comparisons and the frame of its report, for any task."""
