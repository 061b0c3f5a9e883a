"""The sentences under test and how a test of one is decided."""
