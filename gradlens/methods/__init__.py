"""The training rules, one a file. A new rule is a file and a line here; the property tests then cover it unedited."""

from __future__ import annotations

from gradlens.gradients.method import Method
from gradlens.methods.bp import Backprop
from gradlens.methods.chunked import Chunked
from gradlens.methods.context_encoder import ContextEncoder, ContextEncoderLocal
from gradlens.methods.cpc import CPC, CPCLocal
from gradlens.methods.dfa import DFA
from gradlens.methods.dgl import DGL
from gradlens.methods.dgl_async import DGLAsync
from gradlens.methods.distil import Distil
from gradlens.methods.dni import CDNI, DNI
from gradlens.methods.dni_unlocked import DNIUnlocked
from gradlens.methods.fa import FA
from gradlens.methods.greedy import Greedy
from gradlens.methods.infomax import InfoMax
from gradlens.methods.infopro import InfoPro
from gradlens.methods.kp import KP
from gradlens.methods.loco import LoCo
from gradlens.methods.overlap import Overlap
from gradlens.methods.predsim import PredSim
from gradlens.methods.shallow import Shallow
from gradlens.methods.sign_symmetry import BRSF, FRSF, USF
from gradlens.methods.simclr import SimCLR, SimCLRLocal

METHODS: dict[str, type[Method]] = {  # a new rule goes to the end: its place gives it its colour in every figure
    "bp": Backprop,
    "dgl": DGL,
    "dni": DNI,
    "cdni": CDNI,
    "fa": FA,
    "dfa": DFA,
    "greedy": Greedy,
    "chunked": Chunked,
    "overlap": Overlap,
    "loco": LoCo,
    "dgl-async": DGLAsync,
    "kp": KP,
    "usf": USF,
    "brsf": BRSF,
    "frsf": FRSF,
    "predsim": PredSim,
    "infopro": InfoPro,
    "dni-unlocked": DNIUnlocked,
    "shallow": Shallow,
    "simclr": SimCLR,
    "simclr-local": SimCLRLocal,
    "cpc": CPC,
    "cpc-local": CPCLocal,
    "infomax": InfoMax,
    "context-encoder": ContextEncoder,
    "context-encoder-local": ContextEncoderLocal,
    "distil": Distil,
}
SHIPPED = tuple(METHODS)  # the rules of this package; METHODS also gets those of users' files
