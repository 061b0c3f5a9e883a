"""The command line: a thin shell. Nothing heavy is imported before a command runs, so that ``--help`` answers at once."""

from __future__ import annotations

import functools
import inspect
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

if TYPE_CHECKING:
    from gradlens.config import Config
    from gradlens.experiments import Place
    from gradlens.run import Run

app = typer.Typer(
    name="gradlens",
    help="Train networks with backprop or a rule that replaces it; measure how far the gradient it used is from the true one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Flag(NamedTuple):
    """A shared flag: a field of ``Config``, or of how and where a run is made."""

    name: str  # as on the command line, without dashes
    type: Any
    help: str  # with the default, where a config field has one
    panel: str


FLAGS = (
    Flag("data", str, "digits, cifar10, cifar100, mnist, fashion-mnist, svhn, or an image folder (default digits)", "Data"),
    Flag("data-dir", Path, "folder of the named data sets (default ~/.cache/gradlens)", "Data"),
    Flag("download", bool, "fetch a named data set that is missing", "Data"),
    Flag("limit", int, "train on N images, a seeded choice (default all)", "Data"),
    Flag("label-noise", float, "replace each training label with probability P by a random one, once (default 0)", "Data"),
    Flag("validation", float, "hold out this share of the training images and test on it (default 0)", "Data"),
    Flag("augment", bool, "random flips, and crops after padding with 4 pixels (default off)", "Data"),
    Flag("normalize", str, "pm1 (to -1..+1), gaussian, none (default pm1)", "Data"),
    Flag("model", str, "basic-cnn, vgg11, vgg13, vgg16, vgg19, resnet18, resnet20, resnet32, mlp, linear (default basic-cnn)", "Model"),
    Flag(
        "width",
        int,
        "channels of basic-cnn (128); first ones of vgg (64), resnet (64, 20/32: 16); units of mlp (256), linear (20)",
        "Model",
    ),
    Flag("depth", int, "blocks of basic-cnn (3), mlp (3) or linear (1)", "Model"),
    Flag("stem", int, "kernel of the first convolution: 3, 5, 7 (default basic-cnn 5, others 3)", "Model"),
    Flag("activation", str, "relu, leaky-relu, elu, gelu, silu, tanh, sigmoid (default relu)", "Model"),
    Flag("cut", str, "where blocks end: after-pool, before-pool (default after-pool)", "Model"),
    Flag("loss", str, "ce, mse, bce (default ce)", "Training"),
    Flag("epochs", int, "passes over the training images; 0 is the untrained control (default 12)", "Training"),
    Flag("steps", int, "stop after N updates", "Training"),
    Flag("batch-size", int, "images per update (default 256)", "Training"),
    Flag("optimizer", str, "adam, adamw, sgd, sgdw (decoupled decay), rmsprop (default adam)", "Training"),
    Flag("lr", float, "learning rate; a rule may have its own (default 3e-4)", "Training"),
    Flag("momentum", float, "of sgd, sgdw and rmsprop (default 0)", "Training"),
    Flag("nesterov", bool, "Nesterov momentum for sgd and sgdw (default off)", "Training"),
    Flag("weight-decay", float, "L2 penalty; with adamw and sgdw decoupled decay (default 0)", "Training"),
    Flag("lr-schedule", str, "constant, cosine, step (x0.1 at 1/2 and 3/4) (default constant)", "Training"),
    Flag("warmup", int, "updates of linear learning-rate warm-up (default 0)", "Training"),
    Flag("seed", int, "of everything random (default 0)", "Training"),
    Flag("seeds", int, "K runs, seeds from --seed on; tables show mean and 95% interval (default 1)", "Training"),
    Flag("init-from", str, "start from the weights of this run", "Training"),
    Flag("set", list[str], "name=value or method.name=value: a method's own option, or its own lr; repeatable", "Training"),
    Flag("config", Path, "JSON file of settings, or a run's config.json; flags win over it", "Training"),
    Flag("device", str, "auto, cpu, cuda, cuda:1, mps (default auto)", "Machine"),
    Flag("precision", str, "fp32, bf16, or auto: bf16 where the device has it natively (default fp32)", "Machine"),
    Flag("compile", bool, "torch.compile each block (default off)", "Machine"),
    Flag("threads", int, "CPU threads (default all)", "Machine"),
    Flag("record-every", int, "measure the true gradient every N updates; 0 = never (default 10)", "Records"),
    Flag(
        "diagnose-every",
        int,
        "every N-th measured update also tells chance, noise, feedback, descent; 0 = none (default 5)",
        "Records",
    ),
    Flag("keep-checkpoints", int, "keep N snapshots of the weights along the way (default 0)", "Records"),
    Flag("out", Path, "folder of run directories (default runs)", "Records"),
    Flag("run-name", str, "name of the run directory (default <method>-<data>-<model>-s<seed>-<config>)", "Records"),
    Flag("resume", bool, "go on with an interrupted run", "Records"),
    Flag("overwrite", bool, "start a run anew that exists", "Records"),
    Flag("quiet", bool, "no progress", "Records"),
)
PAIRED = ("augment", "nesterov", "compile", "download")  # flags with a --no- form


def _option(flag: Flag) -> Any:
    name = f"--{flag.name}/--no-{flag.name}" if flag.name in PAIRED else f"--{flag.name}"
    return typer.Option(name, help=flag.help, rich_help_panel=flag.panel, show_default=False)


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
            command(**arguments, given={k: v for k, v in given.items() if v is not None and v != []})

        params = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + shared
        run.__signature__ = inspect.Signature(params)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in params}
        return run

    return decorate


# ------------------------------------------------------------------------------------------- from flags to settings


def _place(given: dict[str, Any]) -> Place:
    """Take the flags that say where and how, and set the process up: threads, memory."""
    import torch

    from gradlens.errors import InputError
    from gradlens.experiments import Place, forget_data, pick_device
    from gradlens.process import keep_freed_memory

    forget_data()
    threads = given.pop("threads", None)
    if threads is not None:
        if threads < 1:
            raise InputError(f"--threads: must be 1 or more, got {threads}")
        torch.set_num_threads(threads)
    if given.get("resume") and given.get("overwrite"):
        raise InputError("--resume goes on with a run and --overwrite starts it anew: give one of them")
    taken = {k: given.pop(k) for k in ("data_dir", "download", "resume", "overwrite") if k in given}
    name, out = given.pop("run_name", None), given.pop("out", Path("runs"))
    if name is not None and (not name or Path(name).name != name):
        raise InputError(f"--run-name {name!r} is not the name of one folder; --out says where it goes")
    device = pick_device(given.pop("device", "auto"))
    if device.type == "cpu":
        keep_freed_memory()
    return Place(out=out, name=name, device=device, **taken)


def _parse_sets(pairs: Sequence[str]) -> list[tuple[str | None, str, Any]]:
    """(method or None, option, value) of each ``--set``."""
    from gradlens.errors import InputError, unknown
    from gradlens.methods import METHODS

    parsed: list[tuple[str | None, str, Any]] = []
    for pair in pairs:
        name, sign, text = pair.partition("=")
        if not sign or not name:
            raise InputError(f"--set {pair!r}: wanted name=value or method.name=value")
        method, dot, option = name.rpartition(".")
        if dot and method not in METHODS:
            raise unknown("method", method, METHODS)
        try:
            value = json.loads(text)
        except ValueError:
            value = {"on": True, "off": False}.get(text, text)
        parsed.append((method or None, option, value))
    return parsed


def _configs(methods: Sequence[str], given: dict[str, Any], place: Place) -> list[list[Config]]:
    """The configs of each method, one per seed, from flags, config file and ``--set``."""
    from gradlens.config import make, read
    from gradlens.errors import InputError, unknown
    from gradlens.experiments import pick_precision
    from gradlens.methods import METHODS

    for name in methods:
        if name not in METHODS:
            raise unknown("method", name, METHODS)
    given = dict(given)
    sets, seeds = _parse_sets(given.pop("set", [])), given.pop("seeds", 1)
    if seeds < 1:
        raise InputError(f"--seeds: must be 1 or more, got {seeds}")
    file = read(given.pop("config")) if "config" in given else {}
    own_options, owner = file.pop("options", {}), file.pop("method", None)
    given = {**file, **given}
    if "precision" in given:
        given["precision"] = pick_precision(given["precision"], place.device)
    for method, option, _ in sets:
        known = {name: [*METHODS[name].Options.model_fields, "lr"] for name in methods}
        if method is not None and method not in methods:
            raise InputError(f"--set {method}.{option}: {method} is not among the methods of this command ({', '.join(methods)})")
        if not any(option in known[name] for name in ([method] if method else methods)):
            raise unknown(f"option of {method or ', '.join(methods)}", option, {o for n in methods for o in known[n]})
    out: list[list[Config]] = []
    for name in methods:
        options = dict(own_options) if name == owner else {}
        fields = [*METHODS[name].Options.model_fields, "lr"]
        options |= {option: value for method, option, value in sets if option in fields and method in (None, name)}
        first = make(**{**given, "method": name, "options": options})
        out.append([first.model_copy(update={"seed": first.seed + i}) for i in range(seeds)])
    return out


def _method_of(given: dict[str, Any]) -> str:
    """The method a config file names, for commands called without one."""
    from gradlens.config import read
    from gradlens.errors import InputError
    from gradlens.methods import METHODS

    method = read(given["config"]).get("method") if "config" in given else None
    if not isinstance(method, str):
        raise InputError(f"which method? One of {', '.join(METHODS)}, or a --config that names one")
    return method


# ------------------------------------------------------------------------------------------------------ the commands


@app.command()
@with_flags()
def train(
    method: Annotated[str | None, typer.Argument(help="a rule of `gradlens list methods`; default: the --config file's")] = None,
    *,
    given: dict[str, Any],
) -> None:
    """Train one METHOD, recording how far its gradient is from the true one."""
    from gradlens import screen
    from gradlens.errors import InputError
    from gradlens.experiments import prepare, train_or_reuse, train_run
    from gradlens.progress import Display

    quiet, place = given.pop("quiet", False), _place(given)
    (configs,) = _configs([method or _method_of(given)], given, place)
    if place.name and len(configs) > 1:
        raise InputError("--run-name names one run; with --seeds each run gets its own name")
    for config in configs:
        prepare(config, place)
    with Display(quiet, len(configs)) as display:

        def watch_for(config: Config) -> Any:
            return display.watch(config.method if len(configs) == 1 else f"{config.method} seed {config.seed}", config.epochs)

        if len(configs) > 1:  # some seeds may be finished, others not begun
            runs = train_or_reuse(configs, place, watch_for)
        else:
            runs = [train_run(config, place, watch_for(config)) for config in configs]
    screen.show(screen.results(runs))
    typer.echo("\n".join(f"run: {run.path}" for run in runs))
    typer.echo(f"next: gradlens figures {' '.join(str(run.path) for run in runs)} --out figures")


@app.command("compare-gradients")
@with_flags()
def compare_gradients(
    what: Annotated[list[str] | None, typer.Argument(metavar="[METHOD_OR_RUN_DIR]...", help="default: bp dgl dni cdni")] = None,
    lr_grid: Annotated[
        str | None,
        typer.Option("--lr-grid", help="learning rates, comma-separated; each method's is chosen on held-out images, first seed"),
    ] = None,
    figures_to: Annotated[Path | None, typer.Option("--figures", help="folder of the figures [OUT/figures]")] = None,
    *,
    given: dict[str, Any],
) -> None:
    """Train methods (or read runs) and print, layer by layer, how far each one's gradient is from the true one."""
    from gradlens import screen
    from gradlens.errors import InputError
    from gradlens.experiments import DEFAULT_COMPARISON, train_or_reuse
    from gradlens.methods import METHODS
    from gradlens.progress import Display
    from gradlens.run import is_run, load, must_be_writable

    quiet, place = given.pop("quiet", False), _place(given)
    if place.name:
        raise InputError("--run-name names one run; compare-gradients makes several: --out names their folder")
    what = list(dict.fromkeys(what or DEFAULT_COMPARISON))
    methods = [name for name in what if name in METHODS or not (is_run(name) or Path(name).exists() or Path(name).name != name)]
    read = [load(path) for path in what if path not in methods]
    grid = _numbers("--lr-grid", lr_grid) if lr_grid is not None else []
    groups = _configs(methods, given, place) if methods else []
    trials = len(groups) * len(grid)
    must_be_writable(figures_to or place.out / "figures")
    with Display(quiet, trials + sum(len(group) for group in groups)) as display:

        def watch_for(config: Config) -> Any:
            extra = f" seed {config.seed}" if len(groups) and len(groups[0]) > 1 else ""
            return display.watch(config.method + extra + (f" lr {config.lr:g}" if grid else ""), config.epochs)

        if grid:
            groups = [_with_best_lr(group, grid, place, watch_for) for group in groups]
        known = [run.config for run in read]
        runs = read + train_or_reuse([config for group in groups for config in group if config not in known], place, watch_for)
    screen.show(screen.comparison(runs))
    typer.echo("\n".join(f"run: {run.path}" for run in runs))
    _write_figures(runs, figures_to or place.out / "figures")


@app.command()
@with_flags("device", "threads", "data-dir", "download", "quiet")
def measure(
    run_dir: Annotated[Path, typer.Argument(help="a run directory")],
    quantity: Annotated[list[str], typer.Option("--quantity", help="a quantity of `gradlens list quantities`; repeatable")],
    *,
    given: dict[str, Any],
) -> None:
    """Add quantities to a run, from its snapshots (--keep-checkpoints), or from its checkpoint where it kept none."""
    from gradlens.experiments import measure_run
    from gradlens.progress import Display

    quiet, place = given.pop("quiet", False), _place(given)
    with Display(quiet) as display:
        rows = measure_run(run_dir, tuple(dict.fromkeys(quantity)), place, display.count("measure"))
    steps = sorted({row.step for row in rows})
    typer.echo(f"{len(rows)} rows at {len(steps)} steps ({', '.join(map(str, steps))}) in {run_dir / 'measured.csv'}")


@app.command()
def figures(
    run_dirs: Annotated[list[Path], typer.Argument(metavar="RUN_DIR...", help="run directories, of one method or several")],
    out: Annotated[Path, typer.Option("--out", help="folder of the figures")] = Path("figures"),
) -> None:
    """Draw curves, cosines over training and the method x layer heat map of runs: png, svg and csv of each."""
    from gradlens.run import load

    _write_figures([load(path) for path in run_dirs], out)


@app.command("list")
@with_flags("threads", "quiet")
def list_(
    what: Annotated[str, typer.Argument(metavar="methods|models|data|quantities", help="what to list")],
    long: Annotated[bool, typer.Option("--long", help="methods: measure each one's locking and cost card here and now")] = False,
    *,
    given: dict[str, Any],
) -> None:
    """Say what there is: methods with their options, models, data sets, quantities."""
    from gradlens.errors import InputError
    from gradlens.screen import listing, show

    if not long:
        show(listing(what))
        return
    if what != "methods":
        raise InputError(f"--long measures what methods cost; there is nothing longer to say of {what}")
    from gradlens.card import cards, table
    from gradlens.progress import Display

    quiet, place = given.pop("quiet", False), _place(given)
    with Display(quiet) as display:
        show(table(cards(place.device, display.count("measuring"))))


@app.command()
def show(run_dir: Annotated[Path, typer.Argument(help="a run directory")]) -> None:
    """Print what a run is, how far it came, and its gradients' final distance from the truth."""
    from gradlens import screen
    from gradlens.run import load

    run = load(run_dir)
    updates = run.metrics[-1].step if run.metrics else 0
    typer.echo(f"{run.path}: " + ("finished" if run.finished else f"unfinished, {updates} updates at its last evaluation"))
    for name, value in run.config.model_dump().items():
        if value is not None and value is not False and value != {}:
            typer.echo(f"  {name:<17} {value}")
    for name in ("device", "threads", "versions", "git", "command", "data_fingerprint", "label_hash"):
        if run.info.get(name) is not None:
            typer.echo(f"  {name:<17} {run.info[name]}")
    if run.metrics:
        screen.show(screen.comparison([run]))
    typer.echo("files: " + ", ".join(sorted(p.name for p in run.path.iterdir() if not p.name.startswith("."))))


@app.command()
@with_flags("data", "data-dir", "download", "model", "width", "depth", "stem", "activation", "cut", "loss", "batch-size",
            "optimizer", "lr", "momentum", "nesterov", "weight-decay", "set", "config", "device", "precision", "compile",
            "threads", "seed", "quiet")  # fmt: skip
def bench(
    methods: Annotated[list[str] | None, typer.Argument(metavar="[METHOD]...", help="default: bp dgl dni cdni")] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="interleaved rounds; medians are printed")] = 7,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the rows to this file too")] = None,
    *,
    given: dict[str, Any],
) -> None:
    """Time, memory and multiply-adds of a plain PyTorch loop, each method, and each method with recording, in one run."""
    from gradlens import screen
    from gradlens.bench import bench as measure_cost
    from gradlens.bench import table
    from gradlens.experiments import DEFAULT_COMPARISON, input_of
    from gradlens.progress import Display
    from gradlens.run import must_be_writable, write

    quiet, precision, place = given.pop("quiet", False), given.pop("precision", "fp32"), _place(given)
    if json_file:
        must_be_writable(json_file)
    configs = [config for (config,) in _configs(methods or DEFAULT_COMPARISON, {**given, "precision": "fp32"}, place)]
    low = [config for (config,) in _configs(methods or DEFAULT_COMPARISON, {**given, "precision": precision}, place)]
    configs += [config for config in low if config.precision != "fp32"]
    shape, classes = input_of(configs[0], place)
    with Display(quiet) as display:
        result = measure_cost(configs, shape, classes, place.device, rounds, progress=display.count("bench"))
    screen.show(table(result))
    if json_file:
        write(json_file, result.to_json().encode())
        typer.echo(f"wrote {json_file}")


def _numbers(flag: str, text: str) -> list[float]:
    from gradlens.errors import InputError

    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{flag} {text!r}: wanted numbers with commas between them, as in 1e-4,3e-4,1e-3") from None


def _with_best_lr(group: list[Config], grid: list[float], place: Place, watch_for: Callable[[Config], Any]) -> list[Config]:
    from gradlens.experiments import choose_lr

    lr = choose_lr(group[0], grid, 0.2, place, watch_for)
    typer.echo(f"{group[0].method}: lr {lr:g} of {', '.join(f'{v:g}' for v in grid)} is best on a fifth of the training images")
    return [config.model_copy(update={"lr": lr}) for config in group]


def _write_figures(runs: Sequence[Run], out: Path) -> None:
    """Draw what the runs hold into a folder, and say which files to open."""
    from gradlens.plots import figure_set, save

    figures = figure_set(runs)
    for name, (figure, rows) in figures.drawn.items():
        save(figure, rows, out, name)
    for name, why in figures.skipped.items():
        typer.echo(f"no figure {name}: {why}")
    typer.echo(f"figures (png, svg, csv): {', '.join(figures.drawn)}")
    first = [name for name in ("cosine_heat_map", "cosine_over_training", "test_accuracy") if name in figures.drawn]
    typer.echo(f"open {', '.join(str(out / f'{name}.png') for name in first or figures.drawn)}")


# -------------------------------------------------------------------------------------------------------------- main


def _sentence(error: Any) -> str:
    """A usage error of the command line as one sentence; an unknown flag gets the nearest known ones."""
    message = str(error.format_message()).replace("\n", " ").rstrip(".")
    name, ctx = getattr(error, "option_name", None), getattr(error, "ctx", None)
    if name and ctx and "No such option" in message:
        known = [o for p in ctx.command.params for o in [*p.opts, *p.secondary_opts] if o.startswith("--")]
        near = sorted(known, key=lambda o: -SequenceMatcher(None, str(name), o).ratio())[:5]
        return f"no such option {name}; nearest: {', '.join(near)} (`{ctx.command_path} --help` lists all)"
    return message[:1].lower() + message[1:]


def _again() -> str:
    """The command line that goes on with what this one began."""
    return shlex.join(["gradlens", *(a for a in sys.argv[1:] if a not in ("--resume", "--overwrite")), "--resume"])


def main() -> None:
    """Run the program: input that cannot be used is one sentence on stderr and exit status 2, without a traceback."""
    status = 0
    try:
        status = app(standalone_mode=False) or 0
    except (KeyboardInterrupt, typer.Abort):
        status = 130
    except Exception as error:  # noqa: BLE001 - said to the user, or raised again
        sys.exit(_report(error))
    if status == 130:
        print(f"gradlens: stopped at once; `{_again()}` goes on from the last checkpoint of a run", file=sys.stderr)
    sys.exit(status)


def _report(error: Exception) -> int:
    """Print an error for a person; anything that is not one of ours is a bug and keeps its traceback."""
    from gradlens.errors import InputError

    if isinstance(error, InputError):
        print(f"gradlens: {error}", file=sys.stderr)
        return 2
    if hasattr(error, "format_message"):
        print(f"gradlens: {_sentence(error)}", file=sys.stderr)
        return 2
    from gradlens.run import INTERRUPTED, Stopped

    if isinstance(error, Stopped):
        again = f"; `{_again()}` goes on" if error.status == INTERRUPTED else ""
        print(f"gradlens: {error}{again}", file=sys.stderr)
        return error.status
    raise error
