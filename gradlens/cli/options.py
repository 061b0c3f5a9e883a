"""The flags that commands share, and from what was typed to configs and a place. Heavy imports wait until a command runs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer


class Flag(NamedTuple):
    """A shared flag: a field of ``Config``, or of how and where a run is made."""

    name: str  # as on the command line, without dashes
    type: Any
    help: str  # with the default, where a config field has one
    panel: str


FLAGS = (
    Flag(
        "data",
        str,
        "digits, hierarchical, sequences, cifar10, cifar100, mnist, fashion-mnist, svhn, stl10, an image folder, or FILE.py:build"
        " (default digits)",
        "Data",
    ),
    Flag("data-dir", Path, "folder of the named data sets (default ~/.cache/gradlens)", "Data"),
    Flag("download", bool, "fetch a named data set that is missing", "Data"),
    Flag("no-cache", bool, "decode an image folder anew, and keep nothing of it in ~/.cache/gradlens/images (default off)", "Data"),
    Flag("limit", int, "train on N images, a seeded choice (default all)", "Data"),
    Flag("limit-test", int, "test on N of the test images, a seeded choice (default all)", "Data"),
    Flag(
        "labels",
        float,
        "share of each class's images that keep their labels, as 0.01; rules without labels use the others too (default 1)",
        "Data",
    ),
    Flag("label-noise", float, "replace each training label with probability P by a random one, once (default 0)", "Data"),
    Flag("validation", float, "hold out this share of the training images and test on it (default 0)", "Data"),
    Flag("augment", bool, "random flips, and crops after padding with 4 pixels (default off)", "Data"),
    Flag("normalize", str, "pm1 (to -1..+1), gaussian, none (default pm1)", "Data"),
    Flag(
        "model",
        str,
        "basic-cnn, vgg11, vgg13, vgg16, vgg19, resnet18, resnet20, resnet32, resnet50, resnet152, resnet-gim, dcgan, mlp, linear,"
        " torchvision:NAME, or FILE.py:build (default basic-cnn)",
        "Model",
    ),
    Flag(
        "width",
        int,
        "channels of basic-cnn (128); first ones of vgg, dcgan (64), resnet (64, 20/32: 16); units of mlp (256), linear (20)",
        "Model",
    ),
    Flag("depth", int, "blocks of basic-cnn (3), mlp (3) or linear (1)", "Model"),
    Flag("stem", int, "kernel of the first convolution: 3, 5, 7 (default basic-cnn and resnet-gim 5, others 3)", "Model"),
    Flag("activation", str, "relu, leaky-relu, elu, gelu, silu, tanh, sigmoid (default relu)", "Model"),
    Flag("attention", str, "channel attention of resnet18, 20, 32, 50, 152: none, se, sk (default none)", "Model"),
    Flag("cut", str, "where blocks end: after-pool, before-pool (default after-pool)", "Model"),
    Flag("loss", str, "ce, mse, bce (default ce)", "Training"),
    Flag("epochs", int, "passes over the training images; 0 is the untrained control (default 12)", "Training"),
    Flag("steps", int, "stop after N updates", "Training"),
    Flag("batch-size", int, "images per update (default 256)", "Training"),
    Flag("optimizer", str, "adam, adamw, sgd, sgdw (decoupled decay), rmsprop, lars (default adam)", "Training"),
    Flag("lr", float, "learning rate; a rule may have its own (default 3e-4)", "Training"),
    Flag("momentum", float, "of sgd, sgdw, rmsprop and lars (default 0)", "Training"),
    Flag("nesterov", bool, "Nesterov momentum for sgd and sgdw (default off)", "Training"),
    Flag("beta1", float, "decay of adam's and adamw's mean gradient (default 0.9)", "Training"),
    Flag("weight-decay", float, "L2 penalty; with adamw and sgdw decoupled decay; with lars of weights only (default 0)", "Training"),
    Flag("lr-schedule", str, "constant, cosine, step (x0.1 at 1/2 and 3/4) (default constant)", "Training"),
    Flag("warmup", int, "updates of linear learning-rate warm-up (default 0)", "Training"),
    Flag("seed", int, "of everything random (default 0)", "Training"),
    Flag("seeds", int, "K runs, seeds from --seed on; tables show mean and 95% interval (default 1)", "Training"),
    Flag("init-from", str, "start from the weights of this run", "Training"),
    Flag(
        "keep-head",
        int,
        "with --init-from a simclr run: keep N layers of its projection head under a new top (default 0)",
        "Training",
    ),
    Flag("teacher", str, "run directory of the network that distil learns from", "Training"),
    Flag("set", list[str], "name=value or method.name=value: a method's own option, or its own lr; repeatable", "Training"),
    Flag("config", Path, "JSON file of settings, or a run's config.json; flags win over it", "Training"),
    Flag("device", str, "auto, cpu, cuda, cuda:1, mps (default auto)", "Machine"),
    Flag("precision", str, "fp32, bf16, or auto: bf16 where the device has it natively (default fp32)", "Machine"),
    Flag("compile", bool, "torch.compile each block (default off)", "Machine"),
    Flag("threads", int, "CPU threads (default all)", "Machine"),
    Flag(
        "parallel",
        str,
        "none; under torchrun data (parts of each batch; used if nothing is said), layers (of the network)",
        "Ranks",
    ),
    Flag("sync-batchnorm", bool, "with --parallel data: BatchNorm over all ranks' images (default off)", "Ranks"),
    Flag("record-ranks", bool, "with --parallel data: rows of each rank's own gradient too (default off)", "Ranks"),
    Flag("split", str, "with --parallel layers: blocks of each rank, as 4,5,5 (default: by cost measured at the start)", "Ranks"),
    Flag("stale", bool, "with --parallel layers: rules that wait for a message take that of an earlier batch (default off)", "Ranks"),
    Flag("schedule", str, "of bp with --parallel layers, torch's pipelines: 1f1b, gpipe (default 1f1b)", "Ranks"),
    Flag("microbatches", int, "of bp with --parallel layers: parts of a batch that follow each other (default 4)", "Ranks"),
    Flag("record-every", int, "measure the true gradient every N updates; 0 = never (default 10)", "Records"),
    Flag(
        "diagnose-every",
        int,
        "every N-th measured update also tells chance, noise, feedback, descent; 0 = none (default 5)",
        "Records",
    ),
    Flag("keep-checkpoints", int, "keep N snapshots of the weights along the way (default 0)", "Records"),
    Flag("evaluate-train", bool, "after each epoch evaluate the training images in eval mode too (default off)", "Records"),
    Flag("online-probe", bool, "per block, a linear learner on its activations, updated every step; its regret (default off)", "Records"),
    Flag("tensorboard", bool, "write scalars and filters to RUN_DIR/tensorboard while training (extra tensorboard)", "Records"),
    Flag("out", Path, "folder of run directories (default runs)", "Records"),
    Flag("run-name", str, "name of the run directory (default <method>-<data>-<model>-s<seed>-<config>)", "Records"),
    Flag("resume", bool, "go on with an interrupted run", "Records"),
    Flag("overwrite", bool, "start a run anew that exists", "Records"),
    Flag("quiet", bool, "no progress", "Records"),
)
PAIRED = (
    "augment",
    "nesterov",
    "compile",
    "download",
    "evaluate-train",
    "online-probe",
    "sync-batchnorm",
    "record-ranks",
    "stale",
)  # flags with a --no- form


def _option(flag: Flag) -> Any:
    name = f"--{flag.name}/--no-{flag.name}" if flag.name in PAIRED else f"--{flag.name}"
    return typer.Option(name, help=flag.help, rich_help_panel=flag.panel, show_default=False)


def _reading_shown(quiet: bool) -> AbstractContextManager[None]:
    """Images that a command reads are counted on stderr, unless it is to be quiet."""
    from gradlens.cli.progress import Reading
    from gradlens.runtime.progress import no_progress, shows_reading

    return shows_reading(no_progress if quiet else Reading())


def with_flags(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the shared flags (all, or those named): those that were typed arrive in its ``given`` dict."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "given"]
        flags = [f for f in FLAGS if not names or f.name in names]
        shared = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[f.type | None, _option(f)])
            for f in flags
            for name in [f.name.replace("-", "_")]
        ]

        @functools.wraps(command)
        def run(**arguments: Any) -> None:
            given = {p.name: arguments.pop(p.name) for p in shared}
            with _reading_shown(bool(given.get("quiet"))):
                command(**arguments, given={k: v for k, v in given.items() if v is not None and v != []})

        params = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + shared
        run.__signature__ = inspect.Signature(params)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in params}
        return run

    return decorate


# ------------------------------------------------------------------------------------------- from flags to settings


def without_figures(paths: list[Path]) -> list[Path]:
    """Run directories as ``runs/*`` gives them, without the folder ``figures`` that compare-gradients draws into beside them."""
    return [path for path in paths if path.name != "figures" or not path.is_dir() or (path / "config.json").exists()] or paths


def runs_given(help_: str) -> Any:
    """The argument of commands that read several run directories."""
    return typer.Argument(metavar="RUN_DIR...", callback=without_figures, help=help_)
