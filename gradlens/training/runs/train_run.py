"""From configs to finished runs: train one, alone or on several ranks, or reuse what is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradlens._version import __version__
from gradlens.runtime.errors import INTERRUPTED, InputError, Stopped, kind_of
from gradlens.runtime.process_group import require_same_run, stop_on_lost_rank
from gradlens.runtime.progress import Watch, no_progress
from gradlens.runtime.terminal import notice
from gradlens.runtime.torchrun_environment import restarts
from gradlens.runtime.user_code import trace_of
from gradlens.training import tensorboard
from gradlens.training.checkpoint import load_checkpoint
from gradlens.training.config import Config, make_config
from gradlens.training.context import RunContext, load_data
from gradlens.training.dry_step import check_first_step
from gradlens.training.loop import fit
from gradlens.training.parallel.choose import add_stage
from gradlens.training.run_data import data_info, is_place
from gradlens.training.run_directory import Run, load_run, read_config, source_weights
from gradlens.training.run_files import is_run
from gradlens.training.run_writer import Writer
from gradlens.training.runs.build_state import build_on_rank
from gradlens.training.runs.check import check, checked_data, goes_on
from gradlens.training.saving import restore_run
from gradlens.training.state import TrainState


def prepare(config: Config, context: RunContext) -> TrainState:
    """Build a run ready for training, with nothing written yet: wrong settings are refused here.

    Collective: call on every rank. Each checks and builds by itself; only when all could do so do they exchange anything.

    Raises:
        InputError: see :func:`gradlens.training.runs.check.check`; what any rank refuses, all refuse, with the same message.

    """
    ranks = context.ranks
    if context.download:  # into one folder
        ranks.first_on_each_machine(lambda: load_data(config, context))
    state = ranks.fail_together(lambda: _built_on_rank(config, context))
    if not ranks.is_single_process:
        require_same_run(ranks, {**config.as_dict(), "the data": state.data.fingerprint(), "gradlens": __version__})
    add_stage(state)
    return state


def _built_on_rank(config: Config, context: RunContext) -> TrainState:
    """Build this rank's part of a run; if rule or network are a user's, try its first step."""
    data = checked_data(config, context)
    state = build_on_rank(config, data, context.device, context.ranks, goes_on(config, context))
    check_first_step(config, state.network, data.shape, len(data.classes))
    return state


def train_run(config: Config, context: RunContext, watch: Watch = no_progress, state: TrainState | None = None) -> Run:
    """Train a config in its run directory and read the run back; on several ranks all call it, rank 0 alone writes and reads.

    Args:
        config: the settings.
        context: where and how, and the ranks that share the run.
        watch: called with each event.
        state: from :func:`prepare`, where there is one already.

    Returns:
        the run, read from its directory.

    Raises:
        InputError: no Config, no RunContext; see :func:`prepare` and ``Writer.open``; nothing is written then.
        Stopped: interrupted, a loss that is not finite, or another rank is gone; a run that never made an update leaves no directory.

    """
    if not isinstance(config, Config):
        raise InputError(f"train_run() trains a Config, got {kind_of(config)}; make_config(method, …) makes one")
    if not isinstance(context, RunContext):
        raise InputError(f"train_run() trains in a RunContext, got {kind_of(context)}; set RunContext(out=…)")
    ranks = context.ranks
    if state is None:
        context = placed(config, context)
        state = prepare(config, context)
    writer = ranks.fail_together(lambda: _open_writer(state, context) if ranks.is_main else None)
    try:
        _restore(state, writer)
        with tensorboard.logged(state, writer.path, watch) if context.tensorboard and writer else nullcontext(watch) as seen:
            fit(state, writer, seen)
    except BaseException as error:
        if writer and not state.position.step:
            writer.discard()
        elif writer and trace_of(error):  # a rule or network of the user's
            notice(
                f"{writer.path} stopped after {state.position.step} updates: the same command goes on with --resume as long as the file"
                " is unchanged, and trains it anew with --overwrite"
            )
        raise
    finally:
        if writer:
            writer.close()
    with stop_on_lost_rank(lambda: state.position.step, lambda: "; the run is finished"):
        run: Run = ranks.broadcast_object(ranks.fail_together(lambda: load_run(writer.path) if writer else None))
    return run


def _restore(state: TrainState, writer: Writer | None) -> None:
    """Restore the checkpoint in the run directory, if there is one: rank 0 reads it for all."""
    ranks = state.ranks
    file = writer.path / "checkpoint.pt" if writer else None
    saved = ranks.broadcast_object(ranks.fail_together(lambda: load_checkpoint(file) if file and file.exists() else None))
    if saved is not None:
        ranks.fail_together(lambda: restore_run(state, writer, saved))
    elif writer:
        writer.rewind({})


def _open_writer(state: TrainState, context: RunContext) -> Writer:
    """Open the run directory of a run in training, with the facts of its data."""
    config, data = state.config, state.data
    info: dict[str, Any] = {"device": str(context.device), **data_info(config.data.name, data)}
    if given := source_weights(config):
        info["source_weights"] = given
    if data.passed_over:
        info["passed_over"] = dict(data.passed_over)
    resume, overwrite = context.resume, context.overwrite
    if restarts() and is_run(context.path_of(config)):  # torchrun has begun again what it had begun
        resume, overwrite = True, False
    return Writer.open(config, context.out, context.name, resume=resume, overwrite=overwrite, info=info)


def find_run(config: Config, out: Path, context: RunContext | None = None) -> Run | None:
    """Find the run of exactly this config in a folder of runs: a finished one if there is one. Other runs' tables are not read.

    A run whose data were read from another path counts, too, if they are the same data.

    Args:
        config: the settings.
        out: the folder.
        context: how the config's data are read, where that is needed.

    """
    unfinished = None
    for candidate in [out / config.run_name(), *sorted(p.parent for p in out.glob("*/config.json"))]:
        try:
            if not is_run(candidate) or config.differences(other := make_config(**read_config(candidate / "config.json"))):
                continue
            found = load_run(candidate)
            if other.data.name != config.data.name:
                found.require_data(load_data(config, context or RunContext()))
        except InputError:
            continue  # a foreign or damaged folder among the runs is ignored
        if found.finished:
            return found
        unfinished = unfinished or found
    return unfinished


def placed(config: Config, context: RunContext) -> RunContext:
    """Return where a config is trained: in the directory that holds its run already, if its data were read from another path then."""
    if context.name is not None or not is_place(config.data.name) or is_run(context.path_of(config)):
        return context
    found = find_run(config, context.out, context)
    return context if found is None else replace(context, name=found.path.name)


def _must_be_of_these_inputs(run: Run, config: Config, context: RunContext) -> None:
    """Check that an image folder, or the run whose weights were used, has not changed since a run was trained; named data sets do not."""
    run.require_sources("; --overwrite trains it anew")
    if is_place(config.data.name):
        run.require_data(load_data(config, context), "; --overwrite trains it anew", config.data.name)


def _place_of(run: Run | None, context: RunContext) -> RunContext:
    """Return where an unfinished config is trained: resumed where it was begun."""
    return replace(context, resume=run is not None, name=context.name if run is None else run.path.name)


def _found(config: Config, context: RunContext, elsewhere: Sequence[Path]) -> Run | None:
    """Find the run of a config where runs are made, or else a finished one in other folders of runs."""
    mine = find_run(config, context.out, context)
    if mine is not None and mine.finished:
        return mine
    others = (find_run(config, folder, context) for folder in elsewhere)
    return next((run for run in others if run is not None and run.finished), mine)


def train_or_reuse(
    configs: Sequence[Config],
    context: RunContext,
    watch_for: Callable[[Config], Watch],
    *,
    elsewhere: Sequence[Path] = (),
    checked: Callable[[], None] | None = None,
    reused: Callable[[Run], None] = no_progress,
    failed: Callable[[Stopped], None] | None = None,
) -> list[Run]:
    """Make one finished run for each config: a finished one is reused, an unfinished one resumed, a missing one trained.

    All configs are checked before the first is trained.

    Args:
        configs: several methods, several seeds each.
        context: where they are trained.
        watch_for: the progress display of a config.
        elsewhere: other folders of runs, in which finished ones are looked for too.
        checked: is called when all are checked, before the first is trained.
        reused: is called with each run that was finished.
        failed: is called with why a run ended before its time; the others are trained then, and it is among the runs as far as it came.
            None: it ends them all.

    Raises:
        Stopped: interrupted, or a run that ended before its time.

    """
    wanted = {config.run_name(): config for config in configs}
    order = [config.run_name() for config in configs]
    found = {name: None if context.overwrite else _found(config, context, elsewhere) for name, config in wanted.items()}
    missing = [name for name, run in found.items() if run is None or not run.finished]
    for name, run in found.items():
        if run is not None and run.finished:
            _must_be_of_these_inputs(run, wanted[name], context)
        elif len(missing) > 1 or checked:  # a single one is checked when it is trained
            check(wanted[name], _place_of(run, context))
    if checked:
        checked()
    done: dict[str, Run] = {}
    for name, run in found.items():
        if run is not None and run.finished:
            reused(run)
            done[name] = run
            continue
        place = _place_of(run, context)
        try:
            done[name] = train_run(wanted[name], place, watch_for(wanted[name]))
        except Stopped as stopped:
            if failed is None or stopped.status == INTERRUPTED:
                raise
            failed(stopped)
            if is_run(path := place.path_of(wanted[name])):
                done[name] = load_run(path)
    return [done[name] for name in order if name in done]
