"""gradlens: train with backprop or a rule that replaces it, and measure how far the gradient it used is from the true one.

Public names, imported when first used: ``Lens``, ``compare``, ``load``, ``Config``, ``METHODS``, ``Method``, ``measure``,
``cosine``, ``train_run``, ``Place``, ``InputError``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradlens.config import Config as Config
    from gradlens.errors import InputError as InputError
    from gradlens.experiments import train_run as train_run
    from gradlens.lens import Lens as Lens
    from gradlens.measures import cosine as cosine
    from gradlens.measures import measure as measure
    from gradlens.method import Method as Method
    from gradlens.methods import METHODS as METHODS
    from gradlens.recorder import compare as compare
    from gradlens.run import load as load
    from gradlens.training_context import Place as Place

__version__ = "0.1.0"

_HOME = {
    "Config": "config",
    "InputError": "errors",
    "Lens": "lens",
    "METHODS": "methods",
    "Method": "method",
    "Place": "experiments",
    "compare": "recorder",
    "cosine": "measures",
    "load": "run",
    "measure": "measures",
    "train_run": "experiments",
}
__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: ``import gradlens`` stays instant."""
    if name not in _HOME:
        raise AttributeError(f"module 'gradlens' has no attribute {name!r}")
    return getattr(import_module(f"gradlens.{_HOME[name]}"), name)
