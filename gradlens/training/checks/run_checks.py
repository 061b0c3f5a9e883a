"""Checks of a rule that need several steps: recording, seeds and interruptions change nothing."""

from __future__ import annotations

import io
from collections.abc import Sequence

import torch

from gradlens.runtime.rng import seed_global
from gradlens.training.build import ModelAndMethod
from gradlens.training.checks.trial import Bits, CheckFailed, Trial, copied_state, differing_tensors, first_three
from gradlens.training.step import Recording, training_step

STEPS = 4  # of a run


def _trained(trial: Trial, made: ModelAndMethod, steps: Sequence[int], optimizer: torch.optim.Optimizer, record: bool = False) -> Bits:
    """Run some steps as in training and return all that is left by them: weights, buffers, the optimiser's state, random state."""
    for i in steps:
        x, y = trial.batch(made.method, i)
        seed_global(i)
        made.method.start(1 + i // 2, i)
        training_step(made, optimizer, x, y, Recording(i, diagnose=i == 1) if record else None)
    return _state(made, optimizer)


def _state(made: ModelAndMethod, optimizer: torch.optim.Optimizer) -> Bits:
    state = {**copied_state(made.model), **{f"the rule's {name}": t for name, t in copied_state(made.method).items()}}
    for i, slots in optimizer.state_dict()["state"].items():
        state |= {f"the optimiser's {name} {i}": torch.as_tensor(t) for name, t in slots.items()}
    return {**state, "torch's random state": torch.get_rng_state()}


def _optimizer(made: ModelAndMethod) -> torch.optim.Optimizer:
    return torch.optim.Adam(made.method.param_groups(list(made.model)), lr=0.01)


def no_trace(trial: Trial) -> None:
    """Training is the same to the bit with recording on and off: weights, buffers, random state."""
    ends = []
    for record in (False, True):
        made = trial.build(dropout=True, warmed_up=False)
        ends.append(_trained(trial, made, range(STEPS), _optimizer(made), record))
    if differ := differing_tensors(*ends):
        raise CheckFailed(
            f"recording changes {first_three(differ)}: something is kept from call to call, or drawn in the passes that measure"
        )


def seed(trial: Trial) -> None:
    """Two runs with one seed are the same to the bit, whatever was drawn before; making the rule draws nothing from torch's own stream."""
    ends = []
    for before in (0, 1):
        seed_global(before)
        stream = torch.get_rng_state()
        made = trial.build(warmed_up=False)
        if not torch.equal(stream, torch.get_rng_state()):
            raise CheckFailed("making it draws from torch's global random stream: make modules inside `with seeded(net.seed, 'purpose')`")
        ends.append((copied_state(made.method), _trained(trial, made, range(STEPS), _optimizer(made))))
    if differ := differing_tensors(ends[0][0], ends[1][0]):
        raise CheckFailed(f"it begins with another {first_three(differ)} though the seed is the same")
    if differ := differing_tensors(ends[0][1], ends[1][1]):
        raise CheckFailed(
            f"two runs with one seed end with another {first_three(differ)}: draw from `gradlens.runtime.rng.generator(self.seed, …)`"
        )


def resume(trial: Trial) -> None:
    """A run that is interrupted, saved and resumed is the same to the bit as one that was not interrupted."""
    whole, first = trial.build(warmed_up=False), trial.build(warmed_up=False)
    want = _trained(trial, whole, range(STEPS), _optimizer(whole))
    optimizer = _optimizer(first)
    _trained(trial, first, range(STEPS // 2), optimizer)
    file = io.BytesIO()
    torch.save({"model": first.model.state_dict(), "method": first.method.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    try:
        saved = torch.load(file, weights_only=True)
    except Exception as error:  # torch raises another type for each kind of object that it does not load
        raise CheckFailed("its saved state holds more than tensors and numbers, which a checkpoint does not load") from error
    second = trial.build(warmed_up=False)
    second.model.load_state_dict(saved["model"])
    second.method.load_state_dict(saved["method"])
    optimizer = _optimizer(second)
    optimizer.load_state_dict(saved["optimizer"])
    if differ := differing_tensors(want, _trained(trial, second, range(STEPS // 2, STEPS), optimizer)):
        raise CheckFailed(
            f"resumed after an interruption, it ends with another {first_three(differ)}:"
            " state that is kept from step to step must be in"
            " its state_dict (register_buffer, or get_extra_state)"
        )
