"""Groups of runs that differ in their seed alone, their labels, and which groups may be compared."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gradlens.runtime.errors import InputError
from gradlens.training.config_fields import settings_of

if TYPE_CHECKING:
    from gradlens.training.config import Config
    from gradlens.training.run_directory import Run

DATA = ("data", "limit", "label_noise", "validation")  # settings that must be equal for accuracies to be comparable
NETWORK = ("model", "width", "depth", "stem", "activation", "cut")
LONGEST = 24  # characters of a label up to which all that differs stands in it
ABSENT = "–"  # the value of a setting that a run does not have
RUN_NAME = re.compile(r"([^-]+)-.*-(s\d+-[0-9a-f]{6})")  # of a run directory: its method, seed and digest identify it


def settings(config: Config) -> dict[str, Any]:
    """Return a config's settings but for method and seed, with the method's options beside them.

    An option named like a setting is written ``method.option``.
    """
    shared = config.as_dict(exclude={"method", "options", "seed", "own"})
    shared |= {f"{kind}_file": f"{Path(kept['file']).name}@{kept['sha256'][:6]}" for kind, kept in config.own.items()}
    own = {f"{config.method}.{name}" if name in shared else name: value for name, value in config.options.items()}
    return {**shared, **own}


def _defaults(config: Config) -> dict[str, Any]:
    """Return the values of :func:`settings` that a label leaves out: the defaults of this rule, and absence."""
    shared = {name: setting.default for name, setting in settings_of(type(config)).items()} | dict(config.rule.defaults)
    shared |= {"method_file": ABSENT, "model_file": ABSENT, "data": ABSENT, "model": ABSENT}  # data and model always need a word
    own = {name: field.get_default(call_default_factory=True) for name, field in config.rule.Options.model_fields.items()}
    return {**shared, **{f"{config.method}.{name}" if name in shared else name: value for name, value in own.items()}}


def _tails(paths: Iterable[str]) -> dict[str, str]:
    """Name each path by as many of its last parts as distinguish it from the others."""
    paths = dict.fromkeys(paths)
    for parts in range(1, max((len(Path(p).parts) for p in paths), default=0) + 1):
        tails = {p: Path(*Path(p).parts[-parts:]).as_posix() for p in paths}
        if len(set(tails.values())) == len(paths):
            return tails
    return {p: p for p in paths}


def _words(values: Sequence[Any]) -> list[str]:
    """Return the values of one setting as short words that differ where the values do."""
    names = {v for v in values if isinstance(v, str)}
    tails = _tails(names)
    short = {name: RUN_NAME.sub(r"\1-\2", tail) for name, tail in tails.items()}
    tails = short if len(set(short.values())) == len(tails) else tails

    def word(value: Any) -> str:
        if value is None or isinstance(value, bool):
            return {None: "none", False: "no", True: "yes"}[value]
        return tails[value] if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value).replace(" ", "")

    return [word(value) for value in values]


def _short_name(name: str, config: Config, others: Iterable[str]) -> str:
    """Shorten a setting's name for a label that is too long: its flag's first synonym, or its first word, where nothing else begins so."""
    known = settings_of(type(config))
    if name in ("data", "model"):
        return ""  # their values are words of their own
    if name.endswith("_file"):
        return "file"
    first = next(iter(known[name].synonyms), name) if name in known else name
    if len(first) < len(name):
        return first
    word = re.split(r"[_-]", name)[0]
    return name if any(rival.startswith(word) for rival in {*known, *others} - {name}) else word


def _part(name: str, word: str) -> str:
    """Write a setting in a label: a switch that is on by its name alone, what needs no name by its value alone."""
    return name if word == "yes" and name else f"{name}={word}" if name else word


def _distinct(rows: Sequence[tuple[str, ...]]) -> bool:
    return bool(rows) and len(set(rows)) == len(rows)


def _suffixes(configs: Sequence[Config]) -> list[str]:
    """Describe how configs of one method differ, a text each; an empty one means that everything has its default."""
    rivals = [settings(config) for config in configs]
    defaults = [_defaults(config) for config in configs]
    columns: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for own in rivals for name in own):
        values = [own.get(name, ABSENT) for own in rivals]
        if len(set(map(repr, values))) > 1:
            words = _words(values)
            two = len(set(words)) == 2  # of three and more values each is named
            usual = [two and repr(v) == repr(default.get(name, ABSENT)) for v, default in zip(values, defaults, strict=True)]
            columns[name] = ["" if skip else word for word, skip in zip(words, usual, strict=True)]

    # a file's hash distinguishes two versions of one name; where the names do, it is left out
    for name in [name for name in columns if name.endswith("_file")]:
        others = [columns[other] for other in columns if other != name]
        if _distinct(list(zip(*others, strict=True))):
            del columns[name]

    def texts(names: Mapping[str, str]) -> list[str]:
        rows = [[(short, columns[name][i]) for name, short in names.items()] for i in range(len(configs))]
        return [" ".join(_part(short, word) for short, word in row if word) for row in rows]

    names, room = {name: name for name in columns}, LONGEST - len(configs[0].method) - 1
    if max(map(len, texts(names)), default=0) > room:
        short = {name: _short_name(name, configs[0], {n for own in rivals for n in own}) for name in columns}
        once = Counter(short.values())
        names = {name: short[name] if once[short[name]] == 1 or not short[name] else name for name in columns}
    while max(map(len, texts(names)), default=0) > room:
        # leave out the longest setting without which all labels still differ: the table of settings has it
        spare = [n for n in names if _distinct(list(zip(*(columns[other] for other in names if other != n), strict=True)))]
        if not spare:
            break
        del names[max(spare, key=lambda n: len(names[n]) + max(map(len, columns[n])))]
    return texts(names)


def _key(config: Config) -> str:
    """Return the settings that define a config's group: all but the seed."""
    return repr((config.method, settings(config)))


def run_labels(runs: Sequence[Run]) -> list[str]:
    """Return each run's label, in the order of the runs: the method, and how its groups differ where there are several.

    Paths are given by their last part, a setting of two values is named where it is not the default. A label longer than ``LONGEST``
    has short names, and then only as many settings as distinguish the groups; :func:`label_settings` has all.

    >>> run_labels([bp_seed_0, bp_seed_1, dgl, dgl_linear])  # doctest: +SKIP
    ['bp', 'bp', 'dgl', 'dgl head=linear']
    """
    configs = {_key(run.config): run.config for run in runs}
    label: dict[str, str] = {}
    for method in dict.fromkeys(config.method for config in configs.values()):
        mine = {key: config for key, config in configs.items() if config.method == method}
        label |= {key: f"{method} {text}".strip() for key, text in zip(mine, _suffixes(list(mine.values())), strict=True)}
    return [label[_key(run.config)] for run in runs]


def group_runs(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Return the runs by label, in order of first appearance.

    Raises:
        InputError: no runs, or the same config and seed twice (it would make every interval too narrow).

    """
    if not runs:
        raise InputError("no runs to tabulate")
    found: dict[str, list[Run]] = {}
    for label, run in zip(run_labels(runs), runs, strict=True):
        for other in found.setdefault(label, []):
            if other.config.seed == run.config.seed:
                raise InputError(f"{other.path} and {run.path} are the same run ({label}, seed {run.config.seed}): name it once")
        found[label].append(run)
    return found


class LabelSetting(NamedTuple):
    """One setting of the runs of one label."""

    label: str
    setting: str
    value: str
    differs: bool  # among these labels


def label_settings(runs: Sequence[Run]) -> list[LabelSetting]:
    """Return every setting of every label: what a short label leaves out."""
    groups = {label: settings(group[0].config) for label, group in group_runs(runs).items()}
    names = dict.fromkeys(name for own in groups.values() for name in own)
    differs = {name: len({repr(own.get(name, ABSENT)) for own in groups.values()}) > 1 for name in names}
    return [
        LabelSetting(label, name, "" if own.get(name, ABSENT) is None else str(own.get(name, ABSENT)), differs[name])
        for label, own in groups.items()
        for name in names
    ]


# ---------------------------------------------------------------------------------------------------------- experiments


class Experiment(NamedTuple):
    """Runs whose results may be compared: of the same data and network."""

    name: str  # as a folder: how it differs from the others, and data and model in any case
    heading: str  # what its runs share, in words
    runs: list[Run]


def pairs_by_seed(group: Sequence[Run], other: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Return the runs of two groups that share a seed."""
    by_seed = {run.config.seed: run for run in other}
    return [(run, by_seed[run.config.seed]) for run in group if run.config.seed in by_seed]


def alike(group: Sequence[Run], other: Sequence[Run]) -> bool:
    """Return whether two groups are on the same images, labels and network: then accuracies and times may be compared.

    Images are compared by the hash that runs store; it is of the seed's choice of images, so runs of one seed are compared. Without
    a seed in common, or a hash, the data set's name must do.
    """
    kept = {*DATA, *NETWORK} - {"data"}
    if group[0].config.as_dict(include=kept) != other[0].config.as_dict(include=kept):
        return False
    hashes = [(a.info.get("data_fingerprint"), b.info.get("data_fingerprint")) for a, b in pairs_by_seed(group, other)]
    known = [(a, b) for a, b in hashes if a and b]
    return all(a == b for a, b in known) if known else group[0].config.data.name == other[0].config.data.name


def experiments(runs: Sequence[Run]) -> list[Experiment]:
    """Group runs by what they share (data, model, width and the like) in order of first appearance; method, options, seed may differ."""
    found: list[list[Run]] = []
    for run in runs:
        mine = next((group for group in found if alike(group, [run])), None)
        if mine is None:
            found.append([run])
        else:
            mine.append(run)
    first = [group[0].config for group in found]
    flat = [config.as_dict(include={*DATA, *NETWORK}) for config in first]
    data, models = (_words([own[name] for own in flat]) for name in ("data", "model"))
    rest = [name for name in (*NETWORK, *DATA) if name not in ("data", "model")]
    differ = [name for name in rest if len({repr(own[name]) for own in flat}) > 1]
    named: list[Experiment] = []
    for i, (own, group) in enumerate(zip(flat, found, strict=True)):
        default = {name: setting.default for name, setting in settings_of(type(first[i])).items()}
        others = [f"{name.replace('_', ' ')} {_words([own[name]])[0]}" for name in rest if own[name] != default[name]]
        parts = [f"{name.replace('_', '-')}{_words([own[name]])[0]}" for name in differ if own[name] is not None]
        name = re.sub(r"[^\w.+-]+", "-", "-".join([data[i], models[i], *parts]))
        used = sum(other.name == name or other.name.startswith(f"{name}-") for other in named)
        named.append(Experiment(f"{name}-{used + 1}" if used else name, " · ".join([data[i], models[i], *others]), group))
    return named
