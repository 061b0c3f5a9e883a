"""Models that are solved, not trained: what the theory's scripts compare their runs with."""
