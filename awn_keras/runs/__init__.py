"""Training runs: a recipe, what trains it where, and what it leaves on disk."""
