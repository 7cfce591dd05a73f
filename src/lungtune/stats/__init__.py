"""Patient bootstrap, selection bias, comparisons and leaderboards, independent of any task."""
