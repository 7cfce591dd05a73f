"""Markdown, contact sheets and the frame of a retraining report."""
