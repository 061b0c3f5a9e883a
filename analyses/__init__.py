"""One script a claim of the documents; each states it, trains or reads runs, and writes figures/<name>/."""
