"""What every learning rule must satisfy, as functions that say how it fails: ``gradlens check``."""
