"""The training rules, one a file. A new rule is a file and a line here; the property tests then cover it unedited."""

from __future__ import annotations

from gradlens.method import Method
from gradlens.methods.bp import Backprop
from gradlens.methods.dgl import DGL
from gradlens.methods.dni import CDNI, DNI

METHODS: dict[str, type[Method]] = {
    "bp": Backprop,
    "dgl": DGL,
    "dni": DNI,
    "cdni": CDNI,
}
