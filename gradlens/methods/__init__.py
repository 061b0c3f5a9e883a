"""List the learning rules, one per file. A new rule is a file and a line here; the property tests then cover it unchanged."""

from __future__ import annotations

from gradlens.gradients.method import Method
from gradlens.methods.backprop import Backprop
from gradlens.methods.distillation import Distil
from gradlens.methods.feedback.dfa import DFA
from gradlens.methods.feedback.fa import FA
from gradlens.methods.feedback.kolen_pollack import KP
from gradlens.methods.feedback.sign_symmetry import BRSF, FRSF, USF
from gradlens.methods.local.chunked import Chunked
from gradlens.methods.local.dgl import DGL
from gradlens.methods.local.dgl_async import DGLAsync
from gradlens.methods.local.greedy import Greedy
from gradlens.methods.local.infopro import InfoPro
from gradlens.methods.local.overlap import Overlap
from gradlens.methods.local.predsim import PredSim
from gradlens.methods.self_supervised.context_encoder import ContextEncoder, ContextEncoderLocal
from gradlens.methods.self_supervised.cpc import CPC, CPCLocal
from gradlens.methods.self_supervised.infomax import InfoMax
from gradlens.methods.self_supervised.loco import LoCo
from gradlens.methods.self_supervised.simclr import SimCLR, SimCLRLocal
from gradlens.methods.shallow import Shallow
from gradlens.methods.synthetic_gradients.dni import CDNI, DNI
from gradlens.methods.synthetic_gradients.dni_unlocked import DNIUnlocked

METHODS: dict[str, type[Method]] = {  # add a new rule at the end: its position determines its colour in every figure
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
OTHER_NAMES = {name: key for key, rule in METHODS.items() for name in vars(rule).get("other_names", ())}  # name in the literature -> key

BASELINE = "bp"  # the rule that uses the true gradient: reference of accuracies and costs
DEFAULT_COMPARISON = ("bp", "dgl", "dni", "cdni")  # compared by commands if no method is named
DEFAULT_SIMULATION = ("bp", "dgl", "dgl-async", "dni", "dni-unlocked", "dfa")  # simulated by default: one rule per kind of locking
BY_REACH = ("bp", "chunked", "overlap", "dgl")  # rules that differ in the number of blocks a gradient passes, the most first
