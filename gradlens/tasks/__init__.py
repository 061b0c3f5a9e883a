"""Tasks: what an example, a target, an item and a score are."""
