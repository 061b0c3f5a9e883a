"""How fast the linear probes are: against scikit-learn's logistic regression, and beside one pass of inference.

Fits. The same standardised float32 features, the same objective, one thread each, rounds interleaved: scikit-learn's default
(``LogisticRegression``, L-BFGS, default tolerance) and :func:`gradlens.fit_logistic_regression`. Digits (64 features), and 5,000 CIFAR-10
images as block1 of a trained BasicCNN of width 32 gives them, pooled to 2,048 features; several l2 around the one that held-out images
choose. Objectives are computed in float64 for both, so that neither is fast by stopping early; on digits features are few and overhead
counts. At the chosen l2 scikit-learn also gets float64 features, which is what its users often give it.

Cost. Reading all blocks of that network for 10,000 images, pooled, against a plain pass of inference over the same images; and what
the probes themselves take: choosing l2 and fitting, all blocks, no controls.

Seconds are of this process on the CPU (``time.process_time``): of fits the least over rounds, of passes the median. A shared machine
makes wall clock say little and slows a round down, never up.

    python -m analyses.probe_speed --data cifar10          # after all_methods (its first bp run) two minutes on a free core
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn import functional as F

from analyses.all_methods import EPOCHS, SHARED
from analyses.training.cost import announce_cost
from analyses.training.study import arguments, data_name, publish, run_context_of, trained
from gradlens.analysis.activations import FORWARD_BATCH, collect_activations, frozen_eval_mode, load_snapshots
from gradlens.analysis.logistic_regression import Standard, fit_logistic_regression
from gradlens.analysis.probe_block import HELD_OUT, ProbeFeatures, choose_l2, probe_block
from gradlens.training.config import make_config
from gradlens.training.context import load_data

ROUNDS, IMAGES, PASS = 5, 5_000, 10_000
GRID = (0.3, 0.1, 0.03, 0.01)


def seconds(do: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of a call, and what it gave."""
    start = time.process_time()
    found = do()
    return time.process_time() - start, found


def objective(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor, l2: float) -> float:
    """Mean cross-entropy + l2/2 |W|^2 in float64."""
    z = x.double() @ weight.double().T + bias.double()
    return float(F.cross_entropy(z, y) + l2 / 2 * weight.double().square().sum())


def compared(given: ProbeFeatures, l2: float, double: bool = False) -> dict[str, Any]:
    """One l2: both fits in turn, several rounds."""
    standard = Standard.of(given.train)
    x, z = standard(given.train), standard(given.test)
    theirs_x = (x.double() if double else x).numpy()
    theirs = LogisticRegression(C=1 / (len(x) * l2), max_iter=10_000)
    times: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        t, sk = seconds(lambda: theirs.fit(theirs_x, given.y.numpy()))
        u, probe = seconds(lambda: fit_logistic_regression(x, given.y, l2, given.classes))
        times.append((t, u))
    test = float(sk.score(z.numpy().astype(theirs_x.dtype), given.y_test.numpy()))
    mine = probe.accuracy(z, given.y_test)
    return {
        "images": len(x),
        "features": x.shape[1],
        "l2": l2,
        "float64_for_scikit_learn": double,
        "seconds": {"scikit_learn": min(t for t, _ in times), "gradlens": min(u for _, u in times)},
        "times_as_fast": min(t for t, _ in times) / min(u for _, u in times),
        "times_as_fast_each_round": [t / u for t, u in times],
        "passes": {"scikit_learn": int(sk.n_iter_[0]), "gradlens": probe.passes},
        "objective": {
            "scikit_learn": objective(torch.from_numpy(sk.coef_), torch.from_numpy(sk.intercept_), x, given.y, l2),
            "gradlens": probe.objective,
        },
        "nats_above_minimum_at_most": probe.bound,
        "accuracy": {"scikit_learn": 100 * test, "gradlens": 100 * mine},
        "accuracy_difference": 100 * (mine - test),
    }


def digits() -> ProbeFeatures:
    """scikit-learn's digits as the toolkit splits them."""
    from gradlens.training.context import RunContext

    data = load_data(make_config(method="bp", data="digits"), RunContext())
    flat = [half.images.flatten(1).float() for half in (data.train, data.test)]
    return ProbeFeatures(flat[0], data.train.labels, flat[1], data.test.labels, 10, 0)


def cost(run: Any, args: Any) -> dict[str, Any]:
    """Reading all blocks against plain inference, and the probes' own time."""
    context = run_context_of(args)
    (frozen,) = load_snapshots(run, context)
    data = load_data(run.config.replace(limit=PASS), context)
    images, model = data.train.images, frozen.modules[0]

    def infer() -> Tensor:
        with frozen_eval_mode(frozen):
            return torch.cat([model(frozen.to_input(part)) for part in torch.split(images, FORWARD_BATCH)])

    infer()
    rounds = [(seconds(infer), seconds(lambda: collect_activations(frozen, images))) for _ in range(ROUNDS)]
    found = rounds[0][1][1]
    held = data.test.take(torch.arange(2_000))
    tested = collect_activations(frozen, held.images)
    solve = 0.0
    for name, x in found.items():
        given = ProbeFeatures(x, data.train.labels, tested[name], held.labels, len(data.classes), 0)
        solve += seconds(lambda given=given: probe_block(given, controls=False))[0]  # type: ignore[misc]
    reading, inference = median(b[0] for _, b in rounds), median(a[0] for a, _ in rounds)
    return {
        "images": PASS,
        "blocks": {name: x.shape[1] for name, x in found.items()},
        "seconds": {"inference": inference, "reading_all_blocks": reading, "choosing_l2_and_fitting": solve},
        "reading_over_inference": median(b[0] / a[0] for a, b in rounds),
        "all_over_inference": (reading + solve) / inference,
    }


def main() -> None:
    """Measure, print, write figures/probe_speed/results.json."""
    args = arguments(__doc__ or "")
    announce_cost(2, "beside the first run of all_methods")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    (run,) = trained([make_config(method="bp", data=args.data, epochs=EPOCHS, lr=1e-3, seed=0, **SHARED)], args)
    data = load_data(run.config, run_context_of(args))
    (frozen,) = load_snapshots(run, run_context_of(args))
    train, test = (half.take(torch.arange(n)) for half, n in ((data.train, IMAGES), (data.test, 4_000)))
    x, z = (collect_activations(frozen, half.images, blocks=["block1"])["block1"] for half in (train, test))
    block1 = ProbeFeatures(x, train.labels, z, test.labels, len(data.classes), 0)
    m = IMAGES - IMAGES // HELD_OUT
    chosen = choose_l2(x[:m], train.labels[:m], x[m:], train.labels[m:], len(data.classes)).l2
    with threadpool_limits(1):
        rows = [{"data": "digits", **compared(digits(), 1e-3)}]
        rows += [{"data": f"{data_name(args)}, block1", **compared(block1, l2)} for l2 in sorted({*GRID, chosen}, reverse=True)]
        rows.append({"data": f"{data_name(args)}, block1", **compared(block1, chosen, double=True)})
    spent = cost(run, args)
    for row in rows:
        kind = "float64" if row["float64_for_scikit_learn"] else "float32"
        t = row["seconds"]
        print(
            f"{row['data']}, {row['images']} x {row['features']}, l2 {row['l2']:g}: scikit-learn ({kind}) {t['scikit_learn']:.2f} s,"
            f" gradlens {t['gradlens']:.2f} s, {row['times_as_fast']:.1f} x; accuracy {row['accuracy_difference']:+.2f} points;"
            f" objective {row['objective']['gradlens'] - row['objective']['scikit_learn']:+.1e}"
        )
    t = spent["seconds"]
    print(
        f"{PASS} images: inference {t['inference']:.1f} s, reading all blocks {t['reading_all_blocks']:.1f} s"
        f" ({spent['reading_over_inference']:.2f} x), choosing l2 and fitting {t['choosing_l2_and_fitting']:.1f} s"
    )
    results = {"chosen_l2": chosen, "fits": rows, "cost": spent, "rounds": ROUNDS, "clock": "CPU seconds of the process, one thread"}
    publish("probe_speed", [run], args, results, figures=False)


if __name__ == "__main__":
    main()
