"""Checks that every learning rule must pass, as functions that report how it fails: ``gradlens check``."""
