"""The documentation tools are a folder of the repository, not an installed package: its root comes last on the path."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))
