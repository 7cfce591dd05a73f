"""Retraining of a recipe for any task: runs, comparisons and the frame of its report."""
