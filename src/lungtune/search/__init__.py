"""The search: proposes configurations, trains them in packs on Ray, stops the hopeless ones, survives anything."""
