"""Training loops with a seeded fault, and sound pairs of loops: what `gradlens diff` has to find, and what it must not accuse."""
