"""One run in a few lines, or as a dict for programs: progress, time, accuracy, settings."""

from __future__ import annotations

import math
from typing import Any

from gradlens.reporting.console import diverged
from gradlens.reporting.numbers import with_thousands
from gradlens.reporting.task_words import items_of
from gradlens.runtime.errors import InputError
from gradlens.runtime.terminal import shell_word
from gradlens.tasks.registry import TASKS
from gradlens.training.config_fields import settings_of
from gradlens.training.metrics import ACCURACY, best_held_out, held_out
from gradlens.training.run_directory import Run, edited
from gradlens.training.run_progress import run_progress

NAMED = ("method", "seed", "options", "own")  # settings with a place of their own in the text
ABOUT = (
    "device",
    "threads",
    "versions",
    "git",
    "command",
    "data_fingerprint",
    "source_fingerprint",
    "label_hash",
)  # in config.json beside the settings


def run_summary(run: Run) -> dict[str, Any]:
    """Return what `gradlens show --format json` prints; accuracies are shares, None where there is none.

    An unfinished run has no final accuracy, only a last one.
    """
    rows = held_out(run.metrics)
    answered = [m for m in rows if math.isfinite(m.accuracy)]
    best = best_held_out([m for m in run.metrics if math.isfinite(m.accuracy)]) if answered else None
    scored: dict[str, Any] = {}
    if best is not None and best.score_name not in ("", ACCURACY):
        scored = {"score": best.score_name, "best_score": best.score, "last_score": answered[-1].score}
    images = [row.seconds * row.images_per_s for row in run.timing]
    return {
        "run": str(run.path),
        "finished": run.finished,
        "method": run.config.method,
        "seed": run.config.seed,
        "epochs_done": max((m.epoch for m in run.metrics), default=0),
        "updates_done": run_progress(run).updates,
        "images": round(sum(v for v in images if math.isfinite(v))),
        "minutes": sum(row.seconds for row in run.timing) / 60,
        "split": rows[-1].split if rows else None,
        "best_accuracy": best.accuracy if best else None,
        "best_epoch": best.epoch if best else None,
        "final_accuracy": answered[-1].accuracy if answered and run.finished else None,
        "last_accuracy": answered[-1].accuracy if answered else None,  # of an unfinished run: as far as it came
        **scored,
        "settings": run.config.as_dict(),
        **{name: run.info[name] for name in ABOUT if run.info.get(name) is not None},
    }


def run_lines(run: Run) -> list[str]:
    """Return how far a run came, its settings that are not the default, as flags, and the machine."""
    info, config = run_summary(run), run.config
    epochs = f"{info['epochs_done']} of {config.epochs} epochs, {with_thousands(info['updates_done'])} updates"
    took = f"{info['minutes']:.1f} minutes" if info["minutes"] >= 1 else f"{60 * info['minutes']:.1f} seconds"
    lines = [
        f"{run.path}: {'finished' if run.finished else 'unfinished'}, {epochs}, {with_thousands(info['images'])} {items_of([run])}, {took}"
        " of training"
    ]
    notes = diverged(run), edited(run.path, run.config, run.saved_state())
    lines += [sentence for sentence in notes if sentence]
    lines.append(" ".join([f"  {config.method}, seed {config.seed}:", *(_changed(run) or ["all settings at their defaults"])]))
    versions = info.get("versions", {})
    made = [str(info["device"])] * ("device" in info) + [f"{info['threads']} thread{'s' * (info['threads'] != 1)}"] * ("threads" in info)
    made += [f"{name} {versions[name]}" for name in ("torch", "gradlens") if name in versions]
    return [*lines, f"  {', '.join(made)}"] if made else lines


def _changed(run: Run) -> list[str]:
    """Return the settings and options of the rule that are not the default, as flags."""
    flat = run.config.as_dict()
    known = {name: setting for name, setting in settings_of(type(run.config)).items() if name not in NAMED}
    words = []
    for name, setting in known.items():
        value = flat[name]
        if name == "task_options":
            usual = TASKS[run.config.task].Options().model_dump()
            words += [f"--set {run.config.task}.{option}={_word(v)}" for option, v in value.items() if v != usual.get(option)]
        elif value != setting.default and value not in (None, ()):
            flag = name.replace("_", "-")
            words.append(f"--{flag}" if value is True else f"--no-{flag}" if value is False else f"--{flag} {_word(value)}")
    try:
        usual = {**run.config.rule.Options().model_dump(), **TASKS[run.config.task].rule_options}
    except InputError:  # a rule of a user's file that is gone
        usual = {}
    return words + [f"--set {name}={_word(v)}" for name, v in run.config.options.items() if v is not None and v != usual.get(name)]


def _word(value: Any) -> str:
    values = value if isinstance(value, list | tuple) else [value]
    return shell_word(",".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values))
