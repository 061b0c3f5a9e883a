"""List optional libraries, and the commands that install them."""

from __future__ import annotations

from pathlib import Path

from gradlens._version import PACKAGE
from gradlens.runtime.terminal import shell_command

EXTRAS = {  # as in pyproject.toml
    "tensorboard": "tensorboard>=2.15",
    "lightning": "lightning>=2.4",
    "ray": "ray>=2.9",
    "graphs": "torch_geometric>=2.5",
}


def install_command(extra: str, checkout: Path = PACKAGE.parent) -> str:
    """Return the command that installs an extra: of the checkout that the package lies in, or where it lies in none the library itself.

    ``gradlens-toolkit[tensorboard]`` would need a package index that has this package, in this version.
    """
    if (checkout / "pyproject.toml").is_file():
        return shell_command("pip", "install", "-e", f"{checkout}[{extra}]")
    return shell_command("pip", "install", EXTRAS[extra])
