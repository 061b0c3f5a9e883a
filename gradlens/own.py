"""Rules, networks and data sets from a user's own file, named ``FILE.py:NAME`` wherever a shipped one is named.

A file is imported under a private name. A config keeps its path and the SHA-256 of its contents, so that a run can be read without
running it, and goes on (resume, probe, measure) only with the code it was made with.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from gradlens._version import PACKAGE
from gradlens.cuts import cut_module
from gradlens.errors import InputError, unknown
from gradlens.method import READS, Method
from gradlens.methods import METHODS
from gradlens.models import MODELS
from gradlens.models_block_boundaries import output_shapes
from gradlens.plan import Plan, numbered

if TYPE_CHECKING:
    from gradlens.data import Source, Split

SHIPPED = frozenset(METHODS) | frozenset(MODELS)
KINDS = ("method", "model")  # settings that name code; data are told by their own fingerprint
FACTS = ("classifies", "unlabelled", "has_teacher", "compiles", "least_batch")  # of a rule, kept so that its runs can be read without it
WANTED = {"method": "FILE.py:Class", "model": "FILE.py:build", "data": "FILE.py:build"}
TYPED: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in KINDS}  # what was named in this process: name -> what a config keeps


class OwnCodeError(InputError):
    """A user's code that raised: one sentence, and a traceback of the user's own frames."""

    def __init__(self, message: str, trace: str) -> None:
        super().__init__(message)
        self.trace = trace


# ------------------------------------------------------------------------------------------------------ importing a file


def is_reference(text: str) -> bool:
    """Whether a word names something in a Python file: ``FILE.py:NAME``, or ``FILE.py`` with the name forgotten."""
    return bool(re.search(r"\.py(:[^/]*)?$", text)) and not Path(text).is_dir()


def _parts(kind: str, text: str) -> tuple[Path, str]:
    """The file and the name in it.

    Raises:
        InputError: no name, no file.

    """
    file, colon, name = text.rpartition(":")
    if not colon or not name.isidentifier() or not file.endswith(".py"):
        raise InputError(f"{text}: wanted {WANTED[kind]}, a Python file and a name in it")
    path = Path(os.path.normpath(file))
    if not path.is_file():
        others = [other.name for other in path.parent.glob("*.py")] if path.parent.is_dir() else []
        near = str(unknown("file", path.name, others)).partition("first: ")[2].split(", ")[:5] if others else []
        here = "" if path.is_absolute() else f" in {Path.cwd()}"
        raise InputError(f"there is no file {path}{here}" + (f"; nearest: {', '.join(near)}" if near else ""))
    return path, name


def fingerprint(path: Path) -> str:
    """SHA-256 of a file's contents, in hex.

    Raises:
        InputError: it cannot be read.

    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error


def _is_ours(file: str) -> bool:
    return file.startswith("<frozen") or Path(file).is_relative_to(PACKAGE)


def trace_of(error: BaseException) -> str:
    """The traceback of an error from a user's file on, without gradlens' frames; empty where no frame of it is a user's."""
    said = traceback.TracebackException.from_exception(error, compact=True)
    files = {str(module.__file__) for module in _imported.values()}
    begin = next((i for i, frame in enumerate(said.stack) if frame.filename in files), None)
    in_file = isinstance(error, SyntaxError) and bool(error.filename)
    if begin is None and not in_file:
        return ""
    kept = [] if begin is None else [frame for frame in said.stack[begin:] if not _is_ours(frame.filename)]
    said.stack = traceback.StackSummary.from_list(kept)
    said.__cause__ = said.__context__ = None
    return "".join(said.format())


def _said(error: BaseException) -> str:
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def raised(error: BaseException) -> str:
    """One sentence on an error that a user's code raised while gradlens ran it."""
    files = {str(module.__file__) for module in _imported.values()}
    frame = next(f for f in reversed(traceback.extract_tb(error.__traceback__)) if f.filename in files)
    return f"{os.path.relpath(frame.filename)}, line {frame.lineno}, raised {_said(error)}"


@contextmanager
def blamed(what: str) -> Iterator[None]:
    """Turn what a user's code raises into an :class:`OwnCodeError` that begins with ``what``; an InputError of theirs stays."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise OwnCodeError(f"{what}: {_said(error)}", trace_of(error)) from error


_imported: dict[tuple[str, str], ModuleType] = {}  # (absolute path, fingerprint) -> module


def module_of(path: Path) -> ModuleType:
    """A Python file as a module, imported once for each of its contents; what lies beside it can be imported by it.

    Raises:
        OwnCodeError: importing it fails.

    """
    key = str(path.absolute()), fingerprint(path)
    if key in _imported:
        return _imported[key]
    name = f"_gradlens_own_{re.sub(r'[^0-9A-Za-z]', '_', path.stem)}_{hashlib.sha256(repr(key).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, key[0])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if (folder := str(path.absolute().parent)) not in sys.path:
        sys.path.append(folder)
    sys.modules[name] = _imported[key] = module  # dataclasses and pydantic look a class's module up
    try:
        with blamed(f"{path} cannot be imported"):
            exec(compile(path.read_bytes(), key[0], "exec", dont_inherit=True), module.__dict__)
    except BaseException:
        del sys.modules[name], _imported[key]
        raise
    return module


def _found(path: Path, name: str, what: str, fits: Callable[[Any], bool]) -> Any:
    """A name of a file; where it has none such, those that fit are listed, the nearest first."""
    module = module_of(path)
    if hasattr(module, name):
        return getattr(module, name)
    near = [n for n, v in vars(module).items() if not n.startswith("_") and getattr(v, "__module__", "") == module.__name__ and fits(v)]
    raise InputError(f"{path} has no {name}: {unknown(what, name, near)}")


def _kind_of(thing: Any) -> str:
    if inspect.isclass(thing):
        return f"the class {thing.__name__}"
    return "a function" if inspect.isroutine(thing) else f"a {type(thing).__name__}"


# ----------------------------------------------------------------------------------------------------------------- rules


def rule_in(path: Path, name: str) -> type[Method]:
    """A rule by file and class.

    Raises:
        InputError: no such class, or one that is no rule, in one sentence.

    """
    where = f"{path}:{name}"
    found = _found(path, name, "rule", lambda v: inspect.isclass(v) and issubclass(v, Method))
    if not (inspect.isclass(found) and issubclass(found, Method)):
        raise InputError(f"{where} is {_kind_of(found)}: a rule is a subclass of gradlens.Method")
    if found.signal is Method.signal:
        raise InputError(f"{where} has no method `signal`, which says what each block is told")
    if isinstance(found.reads, str) or not set(found.reads) <= set(READS):
        raise unknown(f"word in `reads` of {where}", next((w for w in found.reads if w not in READS), str(found.reads)), READS)
    if not (inspect.isclass(found.Options) and issubclass(found.Options, BaseModel)):
        raise InputError(f"{where}: Options is {_kind_of(found.Options)}: options are a subclass of pydantic.BaseModel")
    return found


def _stand_in(name: str, kept: Mapping[str, Any]) -> type[Method]:
    """What is known of a rule whose file has not been imported: enough to read its runs."""

    class AnyOptions(BaseModel, frozen=True, extra="allow"):
        """Options as they were when the run was made."""

    facts = {fact: kept[fact] for fact in FACTS if fact in kept}
    about = {"__doc__": f"The rule of {kept['file']}, as a run remembers it.", "Options": AnyOptions}
    return type(
        name, (Method,), {**about, **facts, "reads": frozenset(kept.get("reads", ())), "own_quantities": kept.get("own_quantities", {})}
    )


# -------------------------------------------------------------------------------------------------------------- networks


def _function_in(path: Path, name: str, what: str) -> Callable[..., Any]:
    """A function of a file; ``what`` says what it is for."""
    found = _found(path, name, "function", callable)
    if not callable(found) or isinstance(found, nn.Module):
        raise InputError(f"{path}:{name} is {_kind_of(found)}: wanted a function {what}")
    function: Callable[..., Any] = found
    return function


def blocks_of(built: Any, shape: Sequence[int], where: str) -> nn.Sequential:
    """What a user's ``build(plan)`` returned, as a network of named blocks.

    Args:
        built: an ``nn.Sequential`` of blocks; a list of blocks; or (module, cut points), see :func:`cuts.cut_module`.
        shape: (C, H, W) of an image.
        where: what to call it.

    Raises:
        InputError: nothing of these, or cut points that are none.

    """
    if isinstance(built, nn.Sequential):
        if type(built).forward is not nn.Sequential.forward:
            raise InputError(f"{where} gives a {type(built).__name__} with a forward of its own: return it with cut points, (module, cuts)")
        blocks = built
    elif isinstance(built, tuple) and len(built) == 2 and isinstance(built[0], nn.Module) and not isinstance(built[1], nn.Module):
        module, cuts = built
        if isinstance(cuts, str) or not isinstance(cuts, Sequence) or not all(isinstance(cut, str) for cut in cuts):
            raise InputError(f"{where} gives cut points {cuts!r}: wanted a list of dotted paths of submodules, as ['layer1.0', 'layer2.0']")
        return cut_module(module, cuts, shape, where)
    elif isinstance(built, list | tuple | nn.ModuleList):
        if strange := [block for block in built if not isinstance(block, nn.Module)]:
            raise InputError(f"{where} gives a list with {_kind_of(strange[0])} in it: every block must be an nn.Module")
        if not len(built):
            raise InputError(f"{where} gives no blocks")
        blocks = numbered(list(built)[:-1], built[-1])
    else:
        what = "None" if built is None else _kind_of(built)
        raise InputError(
            f"{where} gives {what}: wanted a list of blocks, an nn.Sequential of named blocks, or (module, cut points), the dotted"
            " paths of the submodules after which it is cut"
        )
    if len(blocks) < 2:
        raise InputError(f"{where} gives {len(blocks) or 'no'} block{'s' * (len(blocks) != 1)}: a network needs one or more and a top")
    return blocks


def _must_be_alike(built: Any, again: Any, where: str) -> None:
    """Two networks from one random stream have the same weights, or no run could be made twice."""
    first, second = (
        [m for m in (thing if isinstance(thing, list | tuple) else [thing]) if isinstance(m, nn.Module)] for thing in (built, again)
    )
    for one, other in zip(first, second, strict=False):
        mine, theirs = one.state_dict(), other.state_dict()
        for name in mine.keys() & theirs.keys():
            if isinstance(mine[name], Tensor) and not torch.equal(mine[name], theirs[name]):
                raise InputError(f"{where} gives another {name} each time: draw weights with torch, which --seed seeds")


def _network(kept: Mapping[str, Any], plan: Plan) -> nn.Sequential:
    """The network of a user's ``build(plan)``, checked on a blank image."""
    path, name = Path(kept["file"]), kept["name"]
    where = f"{path}:{name}"
    build = _function_in(path, name, "from a plan to a network")
    stream = torch.get_rng_state()
    with blamed(f"{where} raised"):
        built = build(plan)
        after = torch.get_rng_state()
        torch.set_rng_state(stream)
        _must_be_alike(built, build(plan), where)
        torch.set_rng_state(after)
    with blamed(f"{where}: its network does not take images of {'x'.join(map(str, plan.shape))}"):
        model = blocks_of(built, plan.shape, where)
        if not any(p.requires_grad for p in model.parameters()):
            raise InputError(f"{where} gives a network without parameters to train")
        answer = output_shapes(model, plan.shape)[-1]
    with blamed(f"{where}: its network does not take images in channels-last layout, in which it is trained"), torch.no_grad():
        twin: Any = copy.deepcopy(model).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        twin(torch.zeros(2, *plan.shape).to(next(model.parameters())).contiguous(memory_format=torch.channels_last))
    if tuple(answer) != (plan.classes,):
        got = "x".join(map(str, answer)) or "one number"
        raise InputError(f"{where}: its top gives {got} for each image; wanted {plan.classes}, one number a class (plan.classes)")
    return model


# ------------------------------------------------------------------------------------------------------- names in configs


def label(kind: str, path: Path, name: str) -> str:
    """What a user's own thing is called in run names and figures: file and name in lower case, without what says nothing.

    >>> label("method", Path("rules/sign_bp.py"), "SignBP"), label("method", Path("mine.py"), "Rule")
    ('signbp', 'mine-rule')
    >>> label("model", Path("net.py"), "build")
    'net'
    """
    stem, word = re.sub(r"[^0-9a-z_.-]", "-", path.stem.lower()), name.lower()
    if kind != "method" and word == "build":
        said = stem
    else:
        said = word if re.sub(r"[^0-9a-z]", "", stem) == re.sub(r"[^0-9a-z]", "", word) else f"{stem}-{word}"
    return f"own-{said}" if said in SHIPPED else said


def short(kind: str, text: str) -> str:
    """A setting's value as one word for a folder's name."""
    if is_reference(text):
        file, _, name = text.rpartition(":")
        return label(kind, Path(file), name)
    return text.replace(":", "-")


def known_as(kind: str, text: str) -> str:
    """The name under which a user's own rule or network is known from now on; other words stay as they are.

    Raises:
        InputError: it cannot be imported, or is none.

    """
    if not is_reference(text):
        return text
    path, name = _parts(kind, text)
    kept: dict[str, Any] = {"file": path.as_posix(), "name": name, "sha256": fingerprint(path)}
    if kind == "method":
        rule = rule_in(path, name)
        kept |= {fact: getattr(rule, fact) for fact in FACTS}
        kept |= {"reads": sorted(rule.reads), "own_quantities": dict(rule.own_quantities)}
    else:
        _function_in(path, name, "from a plan to a network")
    word = label(kind, path, name)
    other = TYPED[kind].get(word)
    if other is not None and (other["file"], other["name"]) != (kept["file"], name):
        raise InputError(f"{other['file']}:{other['name']} and {path}:{name} would both be called {word}: rename one of them")
    TYPED[kind][word] = kept
    _register(kind, word, kept)
    return word


def _register(kind: str, word: str, kept: Mapping[str, Any]) -> None:
    if kind == "method":
        METHODS[word] = rule_in(Path(kept["file"]), kept["name"])
    else:
        MODELS[word] = partial(_network, kept)


def _is_kept(kept: Any) -> bool:
    """Whether this is what a config keeps of a user's file."""
    return isinstance(kept, Mapping) and all(isinstance(kept.get(part), str) for part in ("file", "name", "sha256"))


def settle(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in which ``FILE.py:NAME`` has become a name, with what a config keeps of the file under ``own``.

    A name with its file kept beside it, as in a run's config, is made known without importing the file.

    Raises:
        InputError: a file that cannot be imported, or has no such thing in it.

    """
    settled, kept = dict(values), values.get("own", {})
    if not isinstance(kept, Mapping):
        return settled
    own: dict[str, Any] = {}
    for kind in KINDS:
        word = values.get(kind)
        if not isinstance(word, str):
            continue
        if is_reference(word):
            word = settled[kind] = known_as(kind, word)
            own[kind] = TYPED[kind][word]
        elif _is_kept(kept.get(kind)) and label(kind, Path(kept[kind]["file"]), kept[kind]["name"]) == word:
            own[kind] = kept[kind]
            if kind == "method":
                METHODS.setdefault(word, _stand_in(word, kept[kind]))
            else:
                MODELS.setdefault(word, partial(_network, kept[kind]))
        elif word in TYPED[kind]:
            own[kind] = TYPED[kind][word]
        if kind == "model" and word.startswith("torchvision:"):
            from gradlens.torchvision_models import register

            register(word)
    return {**settled, "own": own} if own or "own" in values else settled


def reference(settings: Mapping[str, Any], kind: str) -> str | None:
    """``FILE.py:NAME`` of a config's rule or network, where it is a user's own."""
    own = settings.get("own")
    kept = own.get(kind) if isinstance(own, Mapping) else None
    return f"{kept['file']}:{kept['name']}" if kept is not None and _is_kept(kept) else None


def activate(own: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]) -> None:
    """Import what a config names, before it is built.

    Args:
        own: the config's field of that name.
        names: kind -> the config's name for it.

    Raises:
        InputError: a file that is gone, or has changed since the config was made.

    """
    for kind, kept in own.items():
        path, _ = _parts(kind, f"{kept['file']}:{kept['name']}")
        if fingerprint(path) != kept["sha256"]:
            raise InputError(
                f"{path} has changed since this run was made with {names[kind]}: its tables and figures can be read, but to go on with it"
                f" or to measure it needs the file as it was (sha256 {kept['sha256'][:12]}…); {path}:{kept['name']}, named anew, is the"
                " file as it is"
            )
        _register(kind, names[kind], kept)


def difference(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """How two configs' files differ, in words; None if they do not."""
    changed = [k for k in KINDS if mine.get(k) and theirs.get(k) and mine[k]["sha256"] != theirs[k]["sha256"]]
    said = [f"{mine[k]['file']}, which has changed" for k in changed]
    said += [f"the {k}'s file" for k in KINDS if k not in changed and mine.get(k) != theirs.get(k)]
    return " and ".join(said) or None


# ------------------------------------------------------------------------------------------------------------------ data


def _split(half: str, given: Any, where: str) -> Split:
    """One half of a user's data set, checked."""
    from gradlens.data import Split

    images, labels = (given.images, given.labels) if isinstance(given, Split) else _pair(half, given, where)
    x, y = (_tensor(t, f"{where}: {what} of the {half} half") for t, what in ((images, "images"), (labels, "labels")))
    if x.dtype != torch.uint8:
        raise InputError(f"{where}: images of the {half} half are {_dtype(x)}: wanted uint8, 0 to 255; --normalize scales them")
    if x.ndim != 4 or not x.numel():
        got = "x".join(map(str, x.shape))
        raise InputError(f"{where}: images of the {half} half are {got}: wanted [N, C, H, W], one image or more")
    if y.ndim != 1 or len(y) != len(x):
        raise InputError(f"{where}: labels of the {half} half are {'x'.join(map(str, y.shape))} for {len(x)} images: wanted [N]")
    if y.dtype == torch.bool or y.is_floating_point() or y.is_complex():
        raise InputError(f"{where}: labels of the {half} half are {_dtype(y)}: wanted whole numbers")
    return Split(x.contiguous(), y.long())


def _pair(half: str, given: Any, where: str) -> tuple[Any, Any]:
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise InputError(f"{where}: the {half} half is {_kind_of(given)}: wanted (images, labels) or a gradlens.Split")
    return given[0], given[1]


def _tensor(given: Any, what: str) -> Tensor:
    if not isinstance(given, Tensor | np.ndarray | list):
        raise InputError(f"{what} are {_kind_of(given)}: wanted a tensor")
    try:
        return torch.as_tensor(given).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{what} are no tensor: {next(iter(str(error).splitlines()), '')}") from error


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def data_set(text: str) -> Source:
    """A user's data set: ``build()`` of a file returns ((images, labels), (images, labels), class names), training and test.

    Images are uint8 [N, C, H, W], labels [N] 0 … C−1 (−1 in the training half: not known); a half may be a ``Split``.

    Raises:
        InputError: it cannot be imported, raises, or is no such thing.

    """
    path, name = _parts("data", text)
    where = f"{path}:{name}"
    build = _function_in(path, name, "that gives a data set")
    with blamed(f"{where} raised"):
        given = build()
    if not isinstance(given, tuple | list) or len(given) != 3:
        size = f" of {len(given)}" if isinstance(given, tuple | list) else ""
        what = "None" if given is None else _kind_of(given)
        raise InputError(f"{where} gives {what}{size}: wanted ((images, labels), (images, labels), class names), training and test")
    train, test = _split("training", given[0], where), _split("test", given[1], where)
    if train.images.shape[1:] != test.images.shape[1:]:
        a, b = ("x".join(map(str, half.images.shape[1:])) for half in (train, test))
        raise InputError(f"{where}: training images are {a}, test images {b}: all must have one shape")
    if isinstance(given[2], str) or not isinstance(given[2], Sequence) or not len(given[2]):
        raise InputError(f"{where}: class names are {given[2]!r}: wanted a list of names")
    names = tuple(str(c) for c in given[2])
    for half, split, lowest in (("training", train, -1), ("test", test, 0)):
        low, high = int(split.labels.min()), int(split.labels.max())
        if low < lowest or high >= len(names):
            wrong = low if low < lowest else high
            raise InputError(
                f"{where}: the {half} half has the label {wrong}: with {len(names)} class names labels are 0 to {len(names) - 1}"
            )
    if not (train.labels >= 0).any():
        raise InputError(f"{where}: no training image has a label")
    return train, test, names
