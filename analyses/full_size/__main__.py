"""The reference study at its own size: a list of trainings, in order of priority, that goes on whenever a machine has time.

Each item's csv file in figures/full_size has a row an epoch (losses, accuracies; per layer the mean cosine with the true gradient, the
norm ratio, the cosine that chance gives and the noise ceiling), with device, precision, commit and seed. Learning rates of the *fast* items
are chosen on held-out images at width 32 when their turn comes (rates.json). It is brought up to date after
every epoch, so that a half-done item is a result. The next call goes on where the run directory still is, else begins that item anew and
replaces its rows once it has come as far.

    python -m analyses.full_size --list
    python -m analyses.full_size --data cifar10-jpeg.tar.gz --minutes 150        # what is next, until the time is spent
    python -m analyses.full_size --items iteration1-fast --width 64              # a family, by name; or one item, or a priority (1 … 6)
    python -m analyses.full_size.figures                                         # the figures, from the csv files
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from analyses.full_size.data import decoded
from analyses.full_size.items import Item, at_width, items
from analyses.full_size.results import commit_of
from analyses.full_size.runner import Machine, chosen, standing, work
from analyses.training.cost import announce_cost
from gradlens.runtime.errors import InputError, Stopped
from gradlens.training.context import pick_device, pick_precision

ROOT = Path(__file__).resolve().parents[2]


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m analyses.full_size", description=__doc__, formatter_class=form)
    parser.add_argument("--list", action="store_true", help="print the items, what they cost and what is done; train nothing")
    parser.add_argument("--items", nargs="+", default=[], metavar="ITEM", help="names, families or priorities (default: all, in order)")
    parser.add_argument("--minutes", type=float, default=None, help="stop cleanly when these are spent")
    parser.add_argument("--width", type=int, default=None, help="width of BasicCNN (default 128); another one is part of the item's name")
    parser.add_argument("--data", default="cifar10", help="cifar10, an image folder, a .tar.gz of one, or an .npz file (default cifar10)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"))
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out", type=Path, default=Path("runs/full_size"), help="folder of run directories and decoded images")
    parser.add_argument("--results", type=Path, default=ROOT / "figures" / "full_size", help="folder of the csv files")
    args = parser.parse_args(argv)
    if args.minutes is not None and args.minutes <= 0:
        raise InputError(f"--minutes must be above 0, got {args.minutes:g}")
    return args


def _run(args: argparse.Namespace) -> int:
    if args.threads:
        torch.set_num_threads(args.threads)
    device = pick_device(args.device)
    precision = pick_precision(args.precision, device)
    machine = Machine(args.out, args.results, device, precision, "cifar10", "CIFAR-10", commit_of(ROOT))
    listed = [at_width(i, args.width) if args.width else i for i in items(cpu=device.type == "cpu")]
    picked = chosen(listed, args.items)
    if args.list:
        _print(machine, picked)
        return 0
    announce_cost(min(args.minutes or math.inf, sum(standing(item, machine)["minutes"] for item in picked)), f"on {device}")
    machine.data, machine.data_name = decoded(args.data, args.out)
    done, left = work(picked, machine, args.minutes)
    print(f"done: {', '.join(done) or 'none'}")
    print(f"left: {', '.join(left) or 'none'}")
    return 0


def _print(machine: Machine, picked: Sequence[Item]) -> None:
    print(f"{'item':44} {'prio':>4} {'epochs':>10} {'multiply-adds':>13} {'minutes':>9}  made by, on")
    for item in picked:
        s = standing(item, machine)
        minutes = f"{s['minutes']:.1f}{' ' if s['how'] == 'measured' else '~'}"
        line = f"{s['item']:44} {s['priority']:>4} {s['epochs']:>10} {s['multiply_adds']:>13.2e} {minutes:>9}  {s['made_by']} {s['on']}"
        print(line.rstrip())
    print(f"minutes: on {machine.device}, {machine.precision}; ~ estimated from the multiply-adds and one network's speed here")


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the arguments say; the exit status: 0, 2 for what cannot be used, 130 when interrupted."""
    try:
        return _run(_arguments(argv))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(f"{stopped}; the same command goes on", file=sys.stderr)
        return stopped.status


if __name__ == "__main__":
    sys.exit(main())
