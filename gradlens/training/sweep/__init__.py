"""Studies: many runs from one file, in local processes or on Ray."""
