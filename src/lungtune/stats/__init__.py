"""Bootstrap over patients, selection bias, comparisons, leaderboards: free of any task."""
