"""The search: proposes configurations, runs them as Ray Tune trials, stops the hopeless ones, survives anything."""
