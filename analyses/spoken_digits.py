"""CPC on speech, its paper's first domain: what a linear classifier reads of digit and speaker from it, beside an untrained network.

Sentence (the reference study, of van den Oord et al. 2018): representations that predict the near future "of" speech without labels hold
what is said and who says it. The 3,000 recordings of the Free Spoken Digit Dataset (``analyses.training.recordings``: 64 frames by 16 mel
bands; the paper reads the waveform of LibriSpeech, 100 hours). `cpc` cuts a recording into 13 windows of 16 frames, 4 apart, each through
an MLP of three layers of 128 (no BatchNorm, through which windows could leak into each other); two gated layers over the windows so far
predict the fourth to seventh window further on, the first that share no frame with the last one seen. 24 epochs in batches of 64, Adam
1e-3 decayed to zero; chosen by a run with a thirteenth seed, 100, that counts nowhere else.

What is held out: seed s trains on five of the six speakers (s mod 6 is left out) and on 45 of their 50 takes of each digit, 2,250
recordings. Read are the digit and the speaker of the other 5 takes (250 recordings), and the digit of the speaker never heard (500). The
classifier (logistic regression, its l2 chosen on a fifth of the training recordings) reads all 13 windows' features side by side. The
same is read from the network before training, from the spectrogram itself, and from the last layer of an MLP of the same width trained
by backprop on whole spectrograms with the digits. Twelve seeds: each speaker is left out twice.

Primary tests. "It learns useful representations of speech": the digit of held-out takes, cpc − untrained, above 0. "Optimising InfoNCE
maximises a lower bound on mutual information": log(negatives + 1) less the loss on held-out takes is higher after training than before.
Twelve seeds show a paired difference as large as its standard deviation (80 % power). Further tests: the digit of a held-out speaker
(its twelve values are of six speakers, each twice), the speaker, cpc − spectrogram.

    python -m analyses.spoken_digits --data recordings.tar.xz          # 19 core-minutes; interrupted, it goes on
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor

from analyses.figures.drawing import Cell
from analyses.figures.ssl_figures import rows_figure
from analyses.training.cost import announce_cost
from analyses.training.recordings import Recordings, read_recordings
from analyses.training.study import arguments, publish, run_context_of, trained
from analyses.verdicts.decision import Test, decide, details
from analyses.verdicts.wording import report
from gradlens.analysis.activations import FrozenModel, collect_activations, load_snapshots
from gradlens.analysis.logistic_regression import LogisticProbe, Standard, fit_logistic_regression
from gradlens.analysis.probe_block import HELD_OUT, choose_l2
from gradlens.data.array_file import write_array_file
from gradlens.data.split import Split
from gradlens.reporting.statistics import interval
from gradlens.reporting.style import save_figure
from gradlens.runtime.errors import InputError
from gradlens.runtime.rng import generator
from gradlens.runtime.text_files import read_json, write_text
from gradlens.training.config import Config, make_config
from gradlens.training.context import RunContext
from gradlens.training.run_directory import Run

TAKES = 5  # of each speaker and digit, that are held out
SHARED: dict[str, Any] = {"model": "mlp", "width": 128, "depth": 3, "batch_size": 64, "lr": 1e-3, "lr_schedule": "cosine"}
CPC: dict[str, Any] = {"patch": 16, "stride": 4, "skip": 3, "steps": 4, "layers": 2, "flip": False}
GRID = (0.1, 0.03, 0.01, 0.003, 0.001)  # of l2
NETWORKS = ("cpc", "untrained", "spectrogram", "supervised")
SHOWN = {"cpc": "CPC, no labels", "untrained": "untrained", "spectrogram": "spectrogram itself", "supervised": "backprop, with digits"}
READ = ("digit", "digit of a new speaker", "speaker")
BOUND = "lower bound on the information of context and held-out future"
MINUTES = 1.6  # of one core, a seed


def _read_above(what: str, control: str, name: str, primary_of: str = "") -> Test:
    said = f"test accuracy of the {what}: cpc − {control}"
    return Test(name, said, what, {"cpc": 1.0, control: -1.0}, "points", at_least=0.0, primary_of=primary_of)


TESTS: tuple[Test, ...] = (
    _read_above("digit", "untrained", "cpc-speech-digit", "cpc-speech"),
    Test(
        "cpc-speech-bound", "bound on mutual information, on held-out takes: after training − before", BOUND,
        {"cpc": 1.0, "before training": -1.0}, "nats", at_least=0.0, primary_of="cpc-bound",
    ),
    *details(
        "cpc-speech",
        _read_above("digit of a new speaker", "untrained", "cpc-speech-new-speaker"),
        _read_above("speaker", "untrained", "cpc-speech-speaker"),
        _read_above("digit", "spectrogram", "cpc-speech-spectrogram"),
        _read_above("digit", "supervised", "cpc-speech-supervised"),
    ),
)  # fmt: skip


class Fold(NamedTuple):
    """What one seed trains on and is tested on: indices of recordings."""

    train: Tensor
    takes: Tensor  # held-out takes of the speakers trained on
    speaker: Tensor  # all of the speaker left out


def fold(recordings: Recordings, seed: int) -> Fold:
    """Leave out one speaker, and some takes of the others; the training recordings in a random order."""
    new = recordings.speaker == seed % len(recordings.speakers)
    takes = int(recordings.take.max()) + 1
    held = min(TAKES, takes // 2)
    first = held * (seed % (takes // held))
    held_out = (recordings.take >= first) & (recordings.take < first + held)
    train = (~new & ~held_out).nonzero()[:, 0]
    order = torch.randperm(len(train), generator=generator(seed, "spoken digits"))
    return Fold(train[order], (~new & held_out).nonzero()[:, 0], new.nonzero()[:, 0])


def write_fold(recordings: Recordings, seed: int, folder: Path) -> Path:
    """Write a seed's recordings as a file of arrays, for ``--data``: labels are digits, the test half is the held-out takes."""
    path = folder / f"fold{seed}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        f = fold(recordings, seed)
        halves = [Split(recordings.images[i], recordings.digit[i]) for i in (f.train, f.takes)]
        write_array_file(path, (halves[0], halves[1], tuple(map(str, range(10)))))
    return path


def configs(data: Path, seed: int, epochs: int) -> list[Config]:
    """The two runs of a seed: cpc, and backprop with the digits."""
    settings = {**SHARED, "data": str(data), "seed": seed}
    return [
        make_config(method="cpc", options=CPC, epochs=epochs, record_every=0, **settings),
        make_config(method="bp", epochs=epochs, record_every=0, **settings),
    ]


def features(frozen: FrozenModel, images: Tensor) -> Tensor:
    """The last block's outputs of all windows, side by side [N, d]."""
    block = frozen.names[-1] if "top" not in frozen.names else frozen.names[-2]
    return collect_activations(frozen, images, budget=None, blocks=[block])[block]


def networks(runs: Sequence[Run], recordings: Recordings, context: RunContext) -> Iterator[tuple[str, Tensor]]:
    """(name, features [N, d] of all recordings) of what is read from."""
    cpc, bp = runs
    yield "cpc", features(next(load_snapshots(cpc, context)), recordings.images)
    yield "untrained", features(next(load_snapshots(cpc, context, "untrained")), recordings.images)
    yield "spectrogram", recordings.images.flatten(1).float() / 255
    yield "supervised", features(next(load_snapshots(bp, context)), recordings.images)


def classifier(x: Tensor, y: Tensor) -> tuple[Standard, LogisticProbe]:
    """Fit logistic regression to features [N, d] and labels [N], its l2 the best on the last fifth when fitted to the rest."""
    m, classes = len(y) - len(y) // HELD_OUT, int(y.max()) + 1
    choice = choose_l2(x[:m], y[:m], x[m:], y[m:], classes, GRID)
    standard = Standard.of(x)
    return standard, fit_logistic_regression(standard(x), y, choice.l2, classes)


def read(x: Tensor, recordings: Recordings, f: Fold) -> dict[str, float]:
    """Test accuracies in % of linear classifiers on features [N, d] of all recordings: what is read -> accuracy."""

    def tested(fitted: tuple[Standard, LogisticProbe], labels: Tensor, test: Tensor) -> float:
        return 100 * fitted[1].accuracy(fitted[0](x[test]), labels[test])

    digit, speaker = (classifier(x[f.train], labels[f.train]) for labels in (recordings.digit, recordings.speaker))
    found = (
        tested(digit, recordings.digit, f.takes),
        tested(digit, recordings.digit, f.speaker),
        tested(speaker, recordings.speaker, f.takes),
    )
    return dict(zip(READ, found, strict=True))


def probed(runs: Sequence[Run], recordings: Recordings, seed: int, context: RunContext) -> dict[str, dict[str, float]]:
    """What is read -> network -> accuracy in %, kept beside the run's other results."""
    kept = runs[0].path / "spoken_digits.json"
    if kept.exists():
        return dict(read_json(kept))
    by_network = {name: read(x, recordings, fold(recordings, seed)) for name, x in networks(runs, recordings, context)}
    found = {what: {name: by_network[name][what] for name in NETWORKS} for what in READ}
    write_text(kept, json.dumps(found) + "\n")
    return found


def bound(run: Run) -> tuple[float, float]:
    """The bound in nats on held-out takes, before training and after it."""
    loss = {m.epoch: m.loss for m in run.metrics if m.split == "test"}
    most = math.log(run.config.options.get("negatives", 16) + 1)
    return most - loss[min(loss)], most - loss[max(loss)]


def draw(values: Mapping[str, Mapping[str, Sequence[float]]], folder: Path) -> None:
    """Write the figure: what is read from each network."""
    cells = [Cell(SHOWN[name], what, *interval(values[what][name])) for name in NETWORKS for what in READ]
    (found, *_) = decide(TESTS, {"values": values})
    gain, low, high = (f"{v:+.1f}".replace("-", "−") for v in found.effect[:3])
    message = f"CPC less the untrained network, digits of held-out takes: {gain} points [{low}, {high}]"
    setting = "Free Spoken Digit Dataset, 2,250 recordings, log-mel spectrograms, MLP of width 128"
    save_figure(rows_figure(cells, message, setting, "linear classifier, test accuracy in %"), cells, folder, "spoken_digits")


def main() -> None:
    """Read the recordings, train and probe twelve seeds, write figures/spoken_digits."""
    args: argparse.Namespace = arguments(__doc__ or "", data="recordings.tar.xz", numbers={"epochs": 24, "seeds": 12})
    announce_cost(MINUTES * args.seeds)
    try:
        recordings = read_recordings(Path(args.data))
    except InputError as error:
        raise SystemExit(f"{error}; fetch the recordings of the Free Spoken Digit Dataset first") from error
    context = run_context_of(args)
    runs, found = [], []
    for seed in range(args.seeds):
        data = write_fold(recordings, seed, args.out / "spoken_digits")
        pair = trained(configs(data, seed, args.epochs), args)
        found.append(probed(pair, recordings, seed, context))
        runs += pair
        print(f"seed {seed}:", {what: {name: round(v, 1) for name, v in found[-1][what].items()} for what in READ})
    values = {what: {name: [one[what][name] for one in found] for name in NETWORKS} for what in READ}
    for what in READ:
        print(what, {name: round(fmean(values[what][name]), 1) for name in NETWORKS})
    minutes = {name: fmean(sum(t.seconds for t in run.timing) / 60 for run in runs[i::2]) for i, name in enumerate(("cpc", "supervised"))}
    minutes |= dict.fromkeys(("untrained", "spectrogram", "before training"), 0.0)
    bounds = [bound(run) for run in runs[::2]]
    values[BOUND] = {"before training": [before for before, _ in bounds], "cpc": [after for _, after in bounds]}
    results = {"values": values, "minutes": minutes}
    report(TESTS, results)
    draw(values, args.figures / "spoken_digits")
    publish("spoken_digits", runs, args, results, figures=False)


if __name__ == "__main__":
    main()
