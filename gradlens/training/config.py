"""One frozen, validated object that says everything an experiment depends on; where it is stored and run is not part of it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from gradlens.data.datasets import DATASETS
from gradlens.data.transforms import NORMALIZATIONS
from gradlens.gradients.losses import LOSSES
from gradlens.methods import METHODS
from gradlens.models.spec import ACTIVATIONS, ATTENTIONS
from gradlens.models.zoo import MODELS
from gradlens.runtime.errors import InputError, unknown
from gradlens.training.config_fields import extra_of, setting
from gradlens.training.user_references import difference, settle_references, short_reference


class Config(BaseModel, frozen=True, extra="forbid"):
    """The settings of one run. Build it with :func:`make_config`, which turns what is wrong into one sentence.

    A setting is said here and nowhere else: `python tools/write_settings.py` makes its flag.
    """

    method: str = setting("bp", "", choices=METHODS)
    options: dict[str, Any] = {}  # the method's own, resolved
    data: str = setting(
        "digits",
        "{choices}, an image folder, an .npz file, or FILE.py:build",
        "Data",
        names=DATASETS,
        synonyms=("dataset", "data-set"),
    )
    limit: int | None = setting(
        None, "train on N images, a seeded choice (default all)", "Data", ge=1, synonyms=("num-train", "train-size", "subset")
    )
    limit_test: int | None = setting(
        None, "test on N of the test images, a seeded choice (default all)", "Data", ge=1, synonyms=("num-test", "test-size")
    )
    labels: float | None = setting(
        None,
        "share of each class's images that keep their labels, as 0.01; rules without labels use the others too (default 1)",
        "Data",
        gt=0,
        le=1,
        synonyms=("label-fraction",),
    )
    label_noise: float = setting(
        0.0, "replace each training label with probability P by a random one, once", "Data", ge=0, le=1, synonyms=("noise",)
    )
    validation: float = setting(
        0.0, "hold out this share of the training images and test on it", "Data", ge=0, lt=1, synonyms=("val", "val-split", "holdout")
    )
    augment: bool = setting(
        False, "random flips, and crops after padding with 4 pixels", "Data", synonyms=("augmentation", "data-augmentation", "aug")
    )
    normalize: str = setting(
        "pm1", "pixels: {choices} (pm1: to -1..+1)", "Data", choices=NORMALIZATIONS, synonyms=("norm", "normalization", "normalise")
    )
    model: str = setting(
        "basic-cnn",
        "{choices}, torchvision:NAME, or FILE.py:build",
        "Model",
        choices=MODELS,
        synonyms=("arch", "architecture", "network", "net", "backbone"),
    )
    width: int | None = setting(
        None,
        "channels of basic-cnn (128); first ones of vgg, dcgan (64), resnet (64, 20/32: 16); units of mlp (256), linear (20)",
        "Model",
        ge=1,
        synonyms=("channels", "hidden", "hidden-size"),
    )
    depth: int | None = setting(None, "blocks of basic-cnn (3), mlp (3) or linear (1)", "Model", ge=1, synonyms=("layers", "num-layers"))
    stem: Literal[3, 5, 7] | None = setting(
        None, "kernel of the first convolution: 3, 5, 7 (default basic-cnn and resnet-gim 5, others 3)", "Model", synonyms=("kernel-size",)
    )
    activation: str = setting("relu", "{choices}", "Model", choices=ACTIVATIONS, synonyms=("act", "nonlinearity"))
    attention: str = setting("none", "channel attention of resnet18, 20, 32, 50, 152: {choices}", "Model", choices=ATTENTIONS)
    cut: str = setting("after-pool", "where blocks end: {choices}", "Model", choices=("after-pool", "before-pool"))
    loss: str = setting("ce", "{choices}", "Training", choices=LOSSES, synonyms=("criterion", "objective"))
    epochs: int = setting(
        12, "passes over the training images; 0 is the untrained control", "Training", ge=0, synonyms=("num-epochs", "max-epochs")
    )
    steps: int | None = setting(
        None, "stop after N updates", "Training", ge=0, synonyms=("max-steps", "num-steps", "iterations", "updates")
    )
    batch_size: int = setting(256, "images per update", "Training", ge=1, synonyms=("bs", "batch", "batchsize", "b"))
    optimizer: str = setting(
        "adam",
        "{choices} (sgdw: decoupled decay)",
        "Training",
        choices=("adam", "adamw", "sgd", "sgdw", "rmsprop", "lars"),
        synonyms=("optim", "optimiser", "opt"),
    )
    lr: float = setting(
        3e-4,
        "learning rate; a rule may have its own",
        "Training",
        ge=0,
        allow_inf_nan=False,
        synonyms=("learning-rate", "rate", "step-size", "eta"),
    )
    momentum: float = setting(0.0, "of sgd, sgdw, rmsprop and lars", "Training", ge=0, lt=1)
    nesterov: bool = setting(False, "Nesterov momentum for sgd and sgdw", "Training")
    beta1: float = setting(0.9, "decay of adam's and adamw's mean gradient", "Training", ge=0, lt=1, synonyms=("betas", "beta"))
    weight_decay: float = setting(
        0.0,
        "L2 penalty; with adamw and sgdw decoupled decay; with lars of weights only",
        "Training",
        ge=0,
        allow_inf_nan=False,
        synonyms=("wd", "decay", "l2"),
    )
    lr_schedule: str = setting(
        "constant",
        "{choices} (step: x0.1 at 1/2 and 3/4)",
        "Training",
        choices=("constant", "cosine", "step"),
        synonyms=("scheduler", "lr-scheduler", "lr-decay"),
    )
    warmup: int = setting(0, "updates of linear learning-rate warm-up", "Training", ge=0, synonyms=("warmup-steps", "lr-warmup"))
    seed: int = setting(0, "of everything random", "Training", ge=0, synonyms=("random-seed", "manual-seed"))
    precision: str = setting(
        "fp32",
        "{choices} (auto: bf16 where the device has it natively)",
        "Machine",
        choices=("fp32", "bf16"),
        typed=("auto",),
        synonyms=("dtype", "amp", "bf16", "mixed-precision"),
    )
    compile: bool = setting(False, "torch.compile each block", "Machine", synonyms=("torch-compile",))
    record_every: int = setting(
        10, "measure the true gradient every N updates; 0 = never", "Records", ge=0, synonyms=("log-every", "log-interval", "every")
    )
    diagnose_every: int = setting(5, "every N-th measured update also tells chance, noise, feedback, descent; 0 = none", "Records", ge=0)
    keep_checkpoints: int = setting(
        0, "keep N snapshots of the weights along the way", "Records", ge=0, synonyms=("checkpoints", "snapshots", "save-every")
    )
    evaluate_train: bool = setting(False, "after each epoch evaluate the training images in eval mode too", "Records")
    online_probe: bool = setting(
        False, "per block, a linear learner on its activations, updated every step; its regret", "Records", synonyms=("probe",)
    )
    init_from: str | None = setting(
        None, "start from the weights of this run", "Training", synonyms=("pretrained", "checkpoint", "weights", "load")
    )
    keep_head: int = setting(0, "with --init-from a simclr run: keep N layers of its projection head under a new top", "Training", ge=0)
    teacher: str | None = setting(None, "run directory of the network that distil learns from", "Training")
    ranks: int = Field(1, ge=1)  # processes that share the run; what they work on:
    parallel: str = setting(
        "none",
        "{choices}: what torchrun's processes share, each batch (data; used if nothing is said) or the network (layers)",
        "Ranks",
        choices=("none", "data", "layers"),
        synonyms=("ddp", "distributed", "strategy"),
    )
    sync_batchnorm: bool = setting(False, "with --parallel data: BatchNorm over all ranks' images", "Ranks", synonyms=("sync-bn",))
    record_ranks: bool = setting(False, "with --parallel data: rows of each rank's own gradient too", "Ranks")
    split: list[int] | None = setting(
        None, "with --parallel layers: blocks of each rank, as 4,5,5 (default: by cost measured at the start)", "Ranks"
    )
    stale: bool = setting(False, "with --parallel layers: rules that wait for a message take that of an earlier batch", "Ranks")
    schedule: str = setting("1f1b", "of bp with --parallel layers, torch's pipelines: {choices}", "Ranks", choices=("1f1b", "gpipe"))
    microbatches: int = setting(
        4, "of bp with --parallel layers: parts of a batch that follow each other", "Ranks", ge=1, synonyms=("micro-batches", "chunks")
    )
    # of a rule or network from the user's file: the file and its fingerprint, see training/user_references.py
    own: dict[str, dict[str, Any]] = {}

    @field_validator("*")
    @classmethod
    def _known(cls, value: Any, info: Any) -> Any:
        if (choices := extra_of(cls.model_fields[info.field_name]).get("choices")) and value not in choices:
            raise unknown(info.field_name.replace("_", " "), value, choices, "gradlens train --help")
        return value

    @model_validator(mode="before")
    @classmethod
    def _own_defaults(cls, values: dict[str, Any]) -> dict[str, Any]:
        """A method's own defaults where nothing is said; its own ``lr`` among its options is the run's learning rate."""
        values = settle_references(values)
        rule = METHODS.get(str(values.get("method", "bp")))
        own = rule.defaults if rule else {}
        if values.get("optimizer", own.get("optimizer")) == own.get("optimizer"):  # a bundle: another optimiser takes none of it
            values = {**own, **values}
        options = values.get("options")
        if not isinstance(options, dict) or "lr" not in options:
            return values
        return {**values, "options": {k: v for k, v in options.items() if k != "lr"}, "lr": options["lr"]}

    @model_validator(mode="after")
    def _together(self) -> Config:
        if self.optimizer in ("adam", "adamw") and (self.momentum or self.nesterov):
            raise InputError("--momentum belongs to sgd, sgdw, rmsprop and lars, --nesterov to sgd and sgdw; adam has its own momentum")
        if self.beta1 != 0.9 and self.optimizer not in ("adam", "adamw"):
            raise InputError("--beta1 belongs to adam and adamw; --momentum is that of the others")
        if self.nesterov and not (self.optimizer in ("sgd", "sgdw") and self.momentum):
            raise InputError("--nesterov needs --optimizer sgd or sgdw and a --momentum above 0")
        if self.keep_head and not self.init_from:
            raise InputError("--keep-head keeps layers of a pretrained run's projection head: it needs --init-from RUN")
        rule = METHODS[self.method]
        if self.teacher is not None and not rule.has_teacher:
            raise InputError(f"--teacher: {self.method} has no teacher; distil has one")
        if self.teacher is None and rule.has_teacher:
            raise InputError(f"{self.method} needs --teacher RUN, a run directory whose network it learns from")
        if self.label_noise and not rule.classifies:
            raise InputError(f"--label-noise changes labels and {self.method} reads none")
        self._shared()
        if self.online_probe and not rule.classifies:
            raise InputError(
                f"--online-probe reads labels in every step and {self.method} has none; `gradlens probe` reads blocks afterwards"
            )
        if self.compile and not METHODS[self.method].compiles:
            raise InputError(f"--compile: {self.method} changes what happens inside blocks, and compiled ones cannot be changed")
        own = METHODS[self.method].Options
        for name in self.options:
            if name not in own.model_fields and own.model_config.get("extra") != "allow":  # a rule whose file is not read takes any
                raise unknown(f"option of {self.method}", name, [*own.model_fields, "lr"], "gradlens list methods")
        try:
            resolved = own(**self.options).model_dump()
        except ValidationError as error:
            raise InputError(f"option of {self.method}: {sentence(error, flags=False)}") from error
        object.__setattr__(self, "options", resolved)
        return self

    def _shared(self) -> None:
        """What can be said of one run on several ranks before they meet."""
        if (self.ranks > 1) != (self.parallel != "none"):
            start = "torchrun --nproc-per-node N -m gradlens train METHOD starts several"
            raise InputError(f"--parallel {self.parallel} with {self.ranks} process{'es' * (self.ranks > 1)}: {start}")
        pipelined = METHODS[self.method].pipelined and self.parallel == "layers"
        if pipelined and self.record_every:
            raise InputError("--record-every: torch's pipeline gives no passes to measure on; with --parallel layers it must be 0")
        if self.parallel == "layers" and self.diagnose_every and self.record_every:
            raise InputError("--diagnose-every needs passes of its own through all blocks: with --parallel layers it must be 0")
        if not pipelined and (self.schedule, self.microbatches) != ("1f1b", 4):
            raise InputError("--schedule and --microbatches are of pipelined backprop: bp with --parallel layers")
        for flag, wanted in (("sync_batchnorm", "data"), ("record_ranks", "data"), ("split", "layers"), ("stale", "layers")):
            if getattr(self, flag) and self.parallel != wanted:
                raise InputError(f"--{flag.replace('_', '-')} belongs to --parallel {wanted}")
        if self.online_probe and self.ranks > 1:
            raise InputError("--online-probe reads whole batches in one process; `gradlens probe` reads blocks afterwards")
        if self.sync_batchnorm and self.compile:
            raise InputError("--compile: normalisation over several ranks (--sync-batchnorm) cannot be compiled")

    def digest(self) -> str:
        """Six hex digits that name this config among others: a hash of its JSON, without later settings at their defaults.

        A later setting is marked ``since="0.2.0"``; a rule's later option ``Field(..., json_schema_extra={"since": "0.2.0"})``.
        So the runs of version 0.1.0, whose fields bear no mark, keep their names whatever is added.
        """
        options = later_defaults(METHODS[self.method].Options, self.options)
        leave_out: dict[str, Any] = dict.fromkeys(later_defaults(type(self), self.model_dump()), True)
        if options:
            leave_out["options"] = options
        return hashlib.sha256(self.model_dump_json(exclude=leave_out).encode()).hexdigest()[:6]

    def run_name(self) -> str:
        """``<method>-<data>-<model>-s<seed>-<digest>``."""
        data = short_reference("data", Path(self.data).resolve().name) or "images"
        return f"{self.method}-{data}-{short_reference('model', self.model)}-s{self.seed}-{self.digest()}"

    def differences(self, other: Config) -> list[str]:
        """The fields in which another config differs, each with both values."""
        mine, theirs = self.model_dump(), other.model_dump()
        files = difference(mine.pop("own"), theirs.pop("own"))
        said = [f"{name} {theirs[name]!r} there, {mine[name]!r} here" for name in mine if mine[name] != theirs[name]]
        return [*said, files] if files else said


def later_defaults(kind: type[BaseModel], values: Mapping[str, Any]) -> set[str]:
    """The fields marked as added after version 0.1.0 (``since``, see :meth:`Config.digest`) whose value is their default."""
    later = {name: field for name, field in kind.model_fields.items() if "since" in extra_of(field)}
    return {name for name, field in later.items() if values.get(name) == field.get_default(call_default_factory=True)}


def sentence(error: ValidationError, flags: bool = True) -> str:
    """The first thing pydantic found wrong, as one sentence that names the field; its flag, where fields are flags."""
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        return str(cause)
    name = str(first["loc"][0]) if first["loc"] else "config"
    known = flags and name in Config.model_fields
    if first["type"] == "extra_forbidden":
        return str(unknown("setting", name, Config.model_fields, "gradlens train --help"))
    label = f"{'--' + name.replace('_', '-') if known else name}: "
    if first["type"] == "literal_error":
        wanted, command = re.findall(r"'([^']+)'|(\d+)", first["ctx"]["expected"]), "train --help" if flags else "list methods"
        return label + str(unknown("value", str(first["input"]), [word or number for word, number in wanted], f"gradlens {command}"))
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"{label}{message}, got {first['input']!r}"


def make_config(**settings: Any) -> Config:
    """A validated config.

    Raises:
        InputError: the first thing that is wrong, in one sentence.

    """
    try:
        return Config(**settings)
    except ValidationError as error:
        cause = error.errors()[0].get("ctx", {}).get("error")
        if isinstance(cause, InputError):
            raise cause from error  # with the traceback of a user's file, where it is that
        raise InputError(sentence(error)) from error


def read_config_file(path: Path) -> dict[str, Any]:
    """The settings in a JSON file: a bare config, or a run's config.json.

    Raises:
        InputError: no such file, or not JSON of that form.

    """
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"cannot read the config file {path}: {os.strerror(error.errno or 0)}") from error
    except ValueError as error:
        raise InputError(f"{path} is not a JSON config: {error}") from error
    settings = content.get("config", content) if isinstance(content, dict) else content
    if not isinstance(settings, dict) or not isinstance(settings.get("options", {}), dict):
        raise InputError(f"{path} is not a JSON config: wanted an object of settings, its options an object too")
    return settle_references(settings)
