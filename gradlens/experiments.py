"""What the commands do, as library functions: train a config, compare methods, choose learning rates, measure later."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from gradlens import __version__, loggers
from gradlens.config import Config, make
from gradlens.data import DATASETS, SHAPES, read
from gradlens.data_split import Data, Source, label_hash
from gradlens.data_subsets import choose
from gradlens.diagnostics import AFTER_THE_STEP, FEEDBACK, SPARSE, sparse_rows
from gradlens.errors import INTERRUPTED, InputError, Stopped, unknown
from gradlens.launch import restarts
from gradlens.longtable import csv_line
from gradlens.measures import QUANTITIES
from gradlens.method import run_step
from gradlens.methods import METHODS
from gradlens.recorder import Row, step_rows, true_updates
from gradlens.run import Run, Writer, is_run, load, load_checkpoint, write
from gradlens.seeding import seeded
from gradlens.setup import put_weights
from gradlens.train import Training, Watch, silent
from gradlens.world import ALONE, World, local_device, must_agree

CPU = torch.device("cpu")
PRECISIONS = ("fp32", "bf16", "auto")
DEFAULT_COMPARISON = ("bp", "dgl", "dni", "cdni")


@dataclass(frozen=True)
class Place:
    """Where and how runs are made: everything an experiment's numbers do not depend on."""

    out: Path = Path("runs")
    name: str | None = None  # of the run directory; default: Config.run_name
    device: torch.device = CPU
    data_dir: Path | None = None
    download: bool = False
    resume: bool = False
    overwrite: bool = False
    tensorboard: bool = False  # write events to RUN_DIR/tensorboard
    world: World = ALONE  # the processes that share a run


def pick_device(name: str) -> torch.device:
    """The device by its torch spelling; ``auto`` = cuda, else mps, else cpu; of several processes each has a GPU of its own.

    Raises:
        InputError: no such device here.

    """
    name = local_device(name)
    if name == "auto":
        mps = torch.backends.mps.is_available()
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise unknown("device", name, ["auto", "cpu", "cuda", "cuda:1", "mps"]) from None
    have = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}.get(device.type)
    if have is None:
        raise unknown("device", name, ["auto", "cpu", "cuda", "cuda:1", "mps"])
    if (device.index or 0) >= have:
        raise InputError(f"--device {name} asked for, but this machine has {have or 'no'} {device.type} device{'s' * (have > 1)}")
    return device


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is computed natively there, so that it is faster than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    supports = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(ask() for ask in supports if ask is not None)


def pick_precision(name: str, device: torch.device) -> str:
    """``auto`` becomes bf16 where that is native, and fp32 elsewhere.

    Raises:
        InputError: an unknown precision.

    """
    if name not in PRECISIONS:
        raise unknown("precision", name, PRECISIONS)
    if name == "auto":
        return "bf16" if has_fast_bf16(device) else "fp32"
    return name


@lru_cache(maxsize=2)
def _data(name: str, data_dir: Path | None, download: bool, *choice: Any) -> Data:
    return choose(_source(name, data_dir, download), *choice)


@lru_cache(maxsize=1)
def _source(name: str, data_dir: Path | None, download: bool) -> Source:
    """The whole data set that was read last: seeds choose other images of the same set."""
    return read(name, data_dir, download)


def data_of(config: Config, place: Place) -> Data:
    """The data of a config; the last ones loaded are kept, so that methods compared on the same data load them once."""
    c = config
    name = c.data if c.data in DATASETS else str(Path(c.data).absolute()) if Path(c.data).exists() else c.data
    drawn = c.limit is not None or c.limit_test is not None or c.label_noise or c.validation or c.labels is not None
    seed = c.seed if drawn else 0  # one entry for all seeds where nothing is drawn
    return _data(name, place.data_dir, place.download, c.limit, c.label_noise, c.validation, seed, c.limit_test, c.labels)


def forget_data() -> None:
    """Forget the loaded data: files may have changed."""
    _data.cache_clear()
    _source.cache_clear()


def input_of(config: Config, place: Place) -> tuple[tuple[int, int, int], int]:
    """(C, H, W) of a config's images and the number of classes; named data sets need not be there for it."""
    if config.data in SHAPES:
        return SHAPES[config.data]
    data = data_of(config, place)
    return data.shape, len(data.classes)


def prepare(config: Config, place: Place) -> Training:
    """A training with nothing written yet: whatever is wrong with its settings is found here.

    Raises:
        InputError: data that cannot be loaded, a model that does not fit them, a batch larger than the data.

    """
    if place.tensorboard:
        loggers.must_be_installed()
    data = data_of(config, place)
    rule = METHODS[config.method]
    images = len(data.everything if rule.unlabelled else data.train)
    if config.batch_size > images:
        kind = "training" if config.labels is None or rule.unlabelled else f"labelled (--labels {config.labels:g})"
        raise InputError(f"--batch-size {config.batch_size} is larger than the {images} {kind} images there are")
    if config.batch_size < rule.least_batch:
        raise InputError(
            f"--batch-size {config.batch_size}: {config.method} tells a batch's images apart and needs {rule.least_batch} or more"
        )
    training = Training(config, data, place.device, world=place.world)
    if objection := training.pair.method.objection(config.epochs):
        raise InputError(objection)
    if config.batch_size == 1 and any(isinstance(m, _BatchNorm) for part in training.pair for m in part.modules()):
        raise InputError("--batch-size 1: this network normalises over the batch, and one image has no batch statistics")
    if config.parallel == "data":
        _must_be_divisible(training)
    return training


def _must_be_divisible(training: Training) -> None:
    """Every rank needs an image of every batch, and two where it normalises over its own part.

    Raises:
        InputError: the batch, or the rest at the end of an epoch, is too small for the ranks.

    """
    config, images = training.config, len(training.train)
    normalises = any(isinstance(m, _BatchNorm) for module in training.pair for m in module.modules())
    least = 2 if normalises and not config.sync_batchnorm else 1
    why = ", of which each rank needs 2 for the batch statistics of its part (or --sync-batchnorm)" if least == 2 else ""
    if config.batch_size < least * config.ranks:
        raise InputError(f"--batch-size {config.batch_size} is too small for {config.ranks} ranks{why}")
    rest = images % config.batch_size
    if "buffer" in METHODS[config.method].reads and (rest or config.batch_size % config.ranks):
        raise InputError(
            f"{config.method} keeps batches, which must be of one size on all {config.ranks} ranks: choose --batch-size, a multiple of"
            f" {config.ranks}, and --limit so that it divides the {images} training images"
        )
    if 1 < rest < least * config.ranks:
        raise InputError(
            f"the last batch of each epoch has {rest} images for {config.ranks} ranks{why}: another --batch-size or --limit leaves more"
        )


def train_run(config: Config, place: Place, watch: Watch = silent) -> Run:
    """Train a config in its run directory and read the run back.

    Raises:
        InputError: see :func:`prepare` and ``Writer.open``; nothing is written then.
        Stopped: interrupted, or a loss that is not finite.

    """
    training = prepare(config, place)
    writer = _opened(config, place)
    training.writer = writer
    try:
        if (writer.path / "checkpoint.pt").exists():
            training.restore(load_checkpoint(writer.path / "checkpoint.pt"))
        else:
            writer.rewind({})
        with loggers.logged(training, writer.path, watch) if place.tensorboard else nullcontext(watch) as seen:
            training.go(seen)
    finally:
        writer.close()
    return load(writer.path)


def share_run(config: Config, place: Place, watch: Watch = silent) -> Run | None:
    """Train a config together with the other ranks of ``place.world``; rank 0 writes the run directory and reads it back.

    Raises:
        InputError: what any rank refuses, all refuse, in the same words; ranks that are not about the same run.
        Stopped: as :func:`train_run`, or another rank is gone.

    """
    world = place.world
    training = world.all_or_none(lambda: prepare(config, place))
    fingerprint = data_of(config, place).fingerprint()
    must_agree(world, {**config.model_dump(), "the data": fingerprint, "gradlens": __version__})
    writer = world.all_or_none(lambda: _opened(config, place) if world.writes else None)
    training.writer = writer
    try:
        saved = writer.path / "checkpoint.pt" if writer else None
        state = world.all_or_none(lambda: load_checkpoint(saved) if saved and saved.exists() else None)
        if state is None and writer:
            writer.rewind({})
        if (state := world.told(state)) is not None:
            world.all_or_none(lambda: training.restore(state))
        with loggers.logged(training, writer.path, watch) if place.tensorboard and writer else nullcontext(watch) as seen:
            training.go(seen)
    finally:
        if writer:
            writer.close()
    return load(writer.path) if writer else None


def _opened(config: Config, place: Place) -> Writer:
    """The run directory of a config, with what is known of its data."""
    data = data_of(config, place)
    unlabelled = {} if data.unlabelled is None else {"unlabelled": len(data.unlabelled)}
    info = {
        "device": str(place.device),
        "data_fingerprint": data.fingerprint(),
        "label_hash": label_hash(data.train),
        "images": {"train": len(data.train), data.test_name: len(data.test), **unlabelled},
    }
    resume, overwrite = place.resume, place.overwrite
    if restarts() and is_run(place.out / (place.name or config.run_name())):  # torchrun has begun again what it had begun
        resume, overwrite = True, False
    return Writer.open(config, place.out, place.name, resume=resume, overwrite=overwrite, info=info)


def find_run(config: Config, out: Path) -> Run | None:
    """The run of exactly this config in a folder of runs: a finished one if there is one."""
    first, unfinished = out / config.run_name(), None
    for candidate in [first, *sorted(p.parent for p in out.glob("*/config.json"))]:
        if is_run(candidate):
            try:
                found = load(candidate)
            except InputError:
                continue  # a foreign or damaged folder among the runs is nobody's result
            if found.config == config and found.finished:
                return found
            if found.config == config:
                unfinished = unfinished or found
    return unfinished


def _must_be_of_these_data(run: Run, place: Place) -> None:
    """A folder of images may have changed since a run was trained on it; the named data sets do not."""
    if run.config.data not in DATASETS and run.info.get("data_fingerprint") != data_of(run.config, place).fingerprint():
        raise InputError(f"the images in {run.config.data} are not the ones {run.path} was trained on; --overwrite trains it anew")


def train_or_reuse(configs: Sequence[Config], place: Place, watch_for: Callable[[Config], Watch]) -> list[Run]:
    """One finished run for each config: a finished one is reused, an unfinished one gone on with, a missing one trained.

    All configs are checked before the first is trained.
    """
    wanted = {config.run_name(): config for config in configs}
    order = [config.run_name() for config in configs]
    found = {name: None if place.overwrite else find_run(config, place.out) for name, config in wanted.items()}
    for name, run in found.items():
        if run is None or not run.finished:
            prepare(wanted[name], place)
        else:
            _must_be_of_these_data(run, place)
    done: dict[str, Run] = {}
    for name, run in found.items():
        if run is not None and run.finished:
            done[name] = run
            continue
        here = replace(place, resume=run is not None, name=place.name if run is None else run.path.name)
        done[name] = train_run(wanted[name], here, watch_for(wanted[name]))
    return [done[name] for name in order]


def choose_lr(config: Config, grid: Sequence[float], share: float, place: Place, watch_for: Callable[[Config], Watch]) -> float:
    """The learning rate of ``grid`` with the highest final accuracy on a validation split held out of the training images.

    Args:
        config: the settings to choose for; its test images are not looked at.
        grid: learning rates.
        share: of the training images to hold out.
        place: where the trial runs go.
        watch_for: the progress display of a config.

    Raises:
        InputError: a learning rate that is none (nothing has been trained then), or none that the loss survives.

    """
    trials = [make(**{**config.model_dump(), "lr": lr, "validation": share, "record_every": 0}) for lr in grid]
    for trial in trials:
        prepare(trial, place)
    scores = {trial.lr: _validation_score(trial, place, watch_for) for trial in trials}
    if max(scores.values()) == -math.inf:
        raise InputError(f"{config.method}: the loss survives none of the learning rates {', '.join(f'{lr:g}' for lr in grid)}")
    return max(scores, key=lambda lr: (scores[lr], -lr))


def _validation_score(trial: Config, place: Place, watch_for: Callable[[Config], Watch]) -> float:
    """A trial's final accuracy, or minus its loss for rules that give no answers; -inf where the loss did not survive the learning rate."""
    try:
        (run,) = train_or_reuse([trial], place, watch_for)
    except Stopped as stopped:
        if stopped.status == INTERRUPTED:
            raise
        return -math.inf
    ends = run.summary["validation"]
    if not METHODS[trial.method].classifies:
        return -math.inf if ends["final_loss"] is None else -float(ends["final_loss"])
    return -math.inf if ends["final_accuracy"] is None else float(ends["final_accuracy"])


def measure_run(
    path: Path, quantities: tuple[str, ...], place: Place, progress: Callable[[int, int, str], None] = lambda done, total, what: None
) -> list[Row]:
    """Add quantities to a finished or unfinished run, from its snapshots (or, without any, from its checkpoint).

    Each snapshot's weights go through the batch that follows them in the run's order, with truth and rule on the same passes;
    the rows are stored in ``measured.csv``, in place of earlier ones of the same step and quantity. Nothing else changes.

    Args:
        path: the run directory.
        quantities: names from ``measures.QUANTITIES``; the rule's own quantities are measured with them.
        place: device and data folder.
        progress: called with (done, in all, what comes next).

    Raises:
        InputError: unknown quantities, a run without weights, data that are not the run's.

    """
    run = load(path)
    own = METHODS[run.config.method].own_quantities
    for name in quantities:
        if name in AFTER_THE_STEP:
            raise InputError(f"{name} compares a loss before and after a step that is made in training: --diagnose-every records it there")
        if name not in (*QUANTITIES, *own, *SPARSE, *FEEDBACK):
            raise unknown("quantity", name, [*QUANTITIES, *own, *SPARSE, *FEEDBACK])
    sparse = frozenset(name for name in quantities if name in (*SPARSE, *FEEDBACK))
    paired = tuple(name for name in quantities if name in QUANTITIES)
    progress(0, 1, f"reading {run.config.data}")
    data = data_of(run.config, place)
    if run.info.get("data_fingerprint") != data.fingerprint():
        raise InputError(f"the data {run.config.data!r} are not the ones {path} was trained on")
    training = Training(run.config, data, place.device)
    rows: list[Row] = []
    files = run.snapshots() or [path / "checkpoint.pt"]
    for i, file in enumerate(files):
        progress(i, len(files), file.name)
        rows += _measure(training, file, paired, sparse)
    for name in quantities:
        if not any(name in (row.quantity, row.kind) for row in rows):
            raise InputError(f"{name} gives no row for {run.config.method}, whose blocks have none; nothing was written")
    fresh = {(row.step, row.kind, row.quantity) for row in rows}
    merged = sorted([r for r in run.measured if (r.step, r.kind, r.quantity) not in fresh] + rows, key=lambda row: row.step)
    write(path / "measured.csv", "".join(csv_line(row) for row in [Row._fields, *merged]).encode())
    return rows


def _measure(training: Training, file: Path, quantities: tuple[str, ...], sparse: frozenset[str]) -> list[Row]:
    """The rows of one saved set of weights."""
    state = load_checkpoint(file)
    model, method = training.pair
    put_weights(model, state["model"], str(file))
    put_weights(method, state["method"], str(file))
    step = int(state["step"])
    method.start(step // training.per_epoch + 1, step)
    x, y = training.batch(step)
    bf16 = torch.autocast(x.device.type, torch.bfloat16, enabled=training.config.precision == "bf16")
    with seeded(training.config.seed, "step", step), bf16:  # the draws of the training step
        run = run_step(method, list(model), x, y)
        truth = true_updates(method, run, keep=bool(sparse))
        rows = step_rows(step, training.pair.names(), method, run, truth, quantities)
        return rows + sparse_rows(step, training.pair.names(), method, run, truth, sparse)
