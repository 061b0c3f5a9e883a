"""The package's version, and its folder. Nothing inside imports ``gradlens`` itself, which would load what it exports."""

from pathlib import Path

__version__ = "0.2.0"
PACKAGE = Path(__file__).parent
