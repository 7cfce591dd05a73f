"""Which trials go on from a rung: a module a scheduler."""
