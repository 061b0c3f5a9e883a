"""One script a claim of the reference study; each states it, trains or reads runs, and writes figures/<name>/."""
