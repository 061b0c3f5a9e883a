"""The settings of an experiment as one frozen, validated object; where it is stored and run is not part of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticSerializationError, to_json

from gradlens.data.datasets import DATASETS, DEFAULT
from gradlens.data.transforms import NORMALIZATIONS
from gradlens.gradients.losses import LOSSES
from gradlens.gradients.method import Method
from gradlens.methods import BASELINE, METHODS
from gradlens.models.spec import ACTIVATIONS, ATTENTIONS
from gradlens.models.zoo import MODELS
from gradlens.runtime.errors import InputError, unknown
from gradlens.training.config_fields import EVERYTHING, Settings, flattened, later_defaults, nested, sentence, setting, settings_of
from gradlens.training.user_references import difference, named_by, reference, require_known, rule_of, settle_references, short_reference

COURSE = "Course of training"  # the panel of what one update does not depend on; `bench` and `timeline`, which time updates, leave it out


class DataSettings(Settings, frozen=True):
    """Which images and labels, and what happens to them."""

    PANEL = "Data"

    name: str = setting(
        DEFAULT,
        "{choices}, an image folder, an .npz file, or FILE.py:build",
        flat="data",
        names=DATASETS,
        synonyms=("dataset", "data-set"),
    )
    limit: int | None = setting(
        None, "train on N images, a seeded choice (default all)", ge=1, synonyms=("num-train", "train-size", "subset")
    )
    limit_test: int | None = setting(
        None, "test on N of the test images, a seeded choice (default all)", ge=1, synonyms=("num-test", "test-size")
    )
    labels: float | None = setting(
        None,
        "share of each class's images that keep their labels, as 0.01; rules without labels use the others too (default 1)",
        gt=0,
        le=1,
        synonyms=("label-fraction",),
    )
    label_noise: float = setting(
        0.0, "replace each training label with probability P by a random one, once", ge=0, le=1, synonyms=("noise",)
    )
    validation: float = setting(
        0.0, "hold out this share of the training images and test on it", ge=0, lt=1, synonyms=("val", "val-split", "holdout")
    )
    augment: bool = setting(
        False, "random flips, and crops after padding with 4 pixels", synonyms=("augmentation", "data-augmentation", "aug")
    )
    normalize: str = setting(
        "pm1", "pixels: {choices} (pm1: to -1..+1)", choices=NORMALIZATIONS, synonyms=("norm", "normalization", "normalise")
    )


class ModelSettings(Settings, frozen=True):
    """The network."""

    PANEL = "Model"

    name: str = setting(
        "basic-cnn",
        "{choices}, torchvision:NAME, or FILE.py:build",
        flat="model",
        choices=MODELS,
        own=True,
        synonyms=("arch", "architecture", "network", "net", "backbone"),
    )
    width: int | None = setting(
        None,
        "channels of basic-cnn (128); first ones of vgg, dcgan (64), resnet (64, 20/32: 16); units of mlp (256), linear (20)",
        ge=1,
        synonyms=("channels", "hidden", "hidden-size", "hidden-dim"),
    )
    depth: int | None = setting(None, "blocks of basic-cnn (3), mlp (3) or linear (1)", ge=1, synonyms=("layers", "num-layers"))
    stem: Literal[3, 5, 7] | None = setting(
        None, "kernel of the first convolution: {choices} (default basic-cnn and resnet-gim 5, others 3)", synonyms=("kernel-size",)
    )
    activation: str = setting("relu", "{choices}", choices=ACTIVATIONS, synonyms=("act", "nonlinearity"))
    attention: str = setting("none", "channel attention of resnet18, 20, 32, 50, 152: {choices}", choices=ATTENTIONS)
    cut: str = setting("after-pool", "where blocks end: {choices}", choices=("after-pool", "before-pool"))


class OptimizerSettings(Settings, frozen=True):
    """The optimiser and its learning rate."""

    PANEL = "Training"

    name: str = setting(
        "adam",
        "{choices} (sgdw: decoupled decay)",
        flat="optimizer",
        choices=("adam", "adamw", "sgd", "sgdw", "rmsprop", "lars"),
        synonyms=("optim", "optimiser", "opt"),
    )
    lr: float = setting(3e-4, "learning rate; a rule may have its own", ge=0, allow_inf_nan=False, synonyms=("learning-rate",))
    momentum: float = setting(0.0, "momentum of sgd, sgdw, rmsprop and lars", ge=0, lt=1)
    nesterov: bool = setting(False, "Nesterov momentum for sgd and sgdw")
    beta1: float = setting(0.9, "decay of adam's and adamw's mean gradient", ge=0, lt=1, synonyms=("betas", "beta"))
    weight_decay: float = setting(
        0.0,
        "L2 penalty; with adamw and sgdw decoupled decay; with lars of weights only",
        ge=0,
        allow_inf_nan=False,
        synonyms=("wd", "decay", "l2"),
    )
    lr_schedule: str = setting(
        "constant",
        "{choices} (step: x0.1 at 1/2 and 3/4)",
        panel=COURSE,
        choices=("constant", "cosine", "step"),
        synonyms=("scheduler", "lr-scheduler", "lr-decay"),
    )
    warmup: int = setting(0, "updates of linear learning-rate warm-up", panel=COURSE, ge=0, synonyms=("warmup-steps", "lr-warmup"))

    @model_validator(mode="after")
    def _of_one_optimizer(self) -> OptimizerSettings:
        if self.name in ("adam", "adamw") and (self.momentum or self.nesterov):
            raise InputError("--momentum belongs to sgd, sgdw, rmsprop and lars, --nesterov to sgd and sgdw; adam has its own momentum")
        if self.beta1 != 0.9 and self.name not in ("adam", "adamw"):
            raise InputError("--beta1 belongs to adam and adamw; --momentum is that of the others")
        if self.nesterov and not (self.name in ("sgd", "sgdw") and self.momentum):
            raise InputError("--nesterov needs --optimizer sgd or sgdw and a --momentum above 0")
        return self


class RecordSettings(Settings, frozen=True):
    """What is measured and kept while training."""

    PANEL = "Records"

    every: int = setting(
        10, "measure the true gradient every N updates; 0 = never", flat="record_every", ge=0, synonyms=("log-every", "log-interval")
    )
    diagnose_every: int = setting(5, "at every N-th measured update also chance, noise, feedback, descent; 0 = never", ge=0)
    keep_checkpoints: int = setting(
        0, "keep N snapshots of the weights along the way", ge=0, synonyms=("checkpoints", "snapshots", "save-every")
    )
    evaluate_train: bool = setting(False, "after each epoch evaluate the training images in eval mode too")
    online_probe: bool = setting(
        False, "per block, a linear learner on its activations, updated every step; its regret", synonyms=("probe",)
    )


class PretrainedSettings(Settings, frozen=True):
    """The run that provides the initial weights."""

    PANEL = COURSE

    run: str | None = setting(
        None, "start from the weights of this run", flat="init_from", synonyms=("pretrained", "checkpoint", "weights", "load")
    )
    keep_head: int = setting(0, "with --init-from a simclr run: keep N layers of its projection head below a new output block", ge=0)

    @model_validator(mode="after")
    def _of_a_run(self) -> PretrainedSettings:
        if self.keep_head and not self.run:
            raise InputError("--keep-head keeps layers of a pretrained run's projection head: it needs --init-from RUN")
        return self


class ParallelSettings(Settings, frozen=True):
    """What several processes share."""

    PANEL = "Ranks"

    ranks: int = setting(1, "", ge=1)  # processes that share the run; what they work on:
    mode: str = setting(
        "none",
        "{choices}: what torchrun's processes share, each batch (data; the default under torchrun) or the network (layers)",
        flat="parallel",
        choices=("none", "data", "layers"),
        synonyms=("ddp", "distributed", "strategy"),
    )
    sync_batchnorm: bool = setting(False, "with --parallel data: BatchNorm over all ranks' images", synonyms=("sync-bn",))
    record_ranks: bool = setting(False, "with --parallel data: rows of each rank's own gradient too", panel="Records")
    split: list[int] | None = setting(
        None, "with --parallel layers: blocks of each rank, as 4,5,5 (default: by cost measured at the start)"
    )
    stale: bool = setting(False, "with --parallel layers: rules that wait for a message use that of an earlier batch")
    schedule: str = setting("1f1b", "torch's pipeline schedule of bp with --parallel layers: {choices}", choices=("1f1b", "gpipe"))
    microbatches: int = setting(4, "microbatches of a batch, for bp with --parallel layers", ge=1, synonyms=("micro-batches", "chunks"))

    @model_validator(mode="after")
    def _of_what_is_shared(self) -> ParallelSettings:
        if (self.ranks > 1) != (self.mode != "none"):
            start = "torchrun --nproc-per-node N -m gradlens train METHOD starts several"
            raise InputError(f"--parallel {self.mode} with {self.ranks} process{'es' * (self.ranks > 1)}: {start}")
        for flag, wanted in (("sync_batchnorm", "data"), ("record_ranks", "data"), ("split", "layers"), ("stale", "layers")):
            if getattr(self, flag) and self.mode != wanted:
                raise InputError(f"--{flag.replace('_', '-')} belongs to --parallel {wanted}")
        return self


class Config(Settings, frozen=True):
    """The settings of one run. Build it with :func:`make_config`, which reports an error in one sentence.

    A setting is defined here, once, and nowhere else: `python tools/write_settings.py` makes its flag.
    """

    PANEL = "Training"

    method: str = setting(BASELINE, "", choices=METHODS, own=True)
    options: dict[str, Any] = Field({})  # the method's own, resolved
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    loss: str = setting("ce", "{choices}", choices=LOSSES, synonyms=("criterion", "objective"))
    epochs: int = setting(
        12,
        "passes over the training images; 0 is the untrained control",
        panel=COURSE,
        ge=0,
        synonyms=("num-epochs", "max-epochs", "n-epochs", "epoch"),
    )
    steps: int | None = setting(
        None, "stop after N updates", panel=COURSE, ge=0, synonyms=("max-steps", "num-steps", "iterations", "updates")
    )
    batch_size: int = setting(256, "images per update", ge=1, synonyms=("bs", "batch", "batchsize", "b"))
    optimizer: OptimizerSettings = OptimizerSettings()
    seed: int = setting(0, "seed of all random numbers", ge=0, synonyms=("random-seed", "manual-seed"))
    precision: str = setting(
        "fp32",
        "{choices} (auto: bf16 where the device has it natively)",
        panel="Machine",
        choices=("fp32", "bf16"),
        typed=("auto",),
        synonyms=("dtype", "amp", "bf16", "mixed-precision"),
    )
    compile: bool = setting(False, "torch.compile each block", panel="Machine", synonyms=("torch-compile",))
    record: RecordSettings = RecordSettings()
    pretrained: PretrainedSettings = PretrainedSettings()
    teacher: str | None = setting(None, "run directory of the teacher network of distil", panel=COURSE)
    parallel: ParallelSettings = ParallelSettings()
    # of a rule or network from the user's file: the file and its fingerprint, see training/user_references.py
    own: dict[str, dict[str, Any]] = Field({})

    @model_validator(mode="before")
    @classmethod
    def _own_defaults(cls, flat: dict[str, Any]) -> dict[str, Any]:
        """Fill in a method's own defaults where a setting is not given, by flat names; its own ``lr`` is the run's learning rate."""
        flat = settle_references(flat)
        require_known(flat, EVERYTHING)
        rule = rule_of(str(flat.get("method", BASELINE)), flat.get("own", {}))
        own = rule.defaults if rule else {}
        theirs = own.get("optimizer", OptimizerSettings.model_fields["name"].default)
        if flat.get("optimizer", theirs) == theirs:  # a bundle: another optimiser takes none of it
            flat = {**own, **flat}
        options = flat.get("options")
        if isinstance(options, dict) and "lr" in options:
            flat = {**flat, "options": {k: v for k, v in options.items() if k != "lr"}, "lr": options["lr"]}
        return nested(cls, flat)

    @model_validator(mode="after")
    def _of_this_rule(self) -> Config:
        rule = self.rule
        if self.teacher is not None and not rule.has_teacher:
            raise InputError(f"--teacher: {self.method} has no teacher; distil has one")
        if self.teacher is None and rule.has_teacher:
            raise InputError(f"{self.method} needs --teacher RUN, the run directory of the teacher network")
        if self.data.label_noise and not rule.classifies:
            raise InputError(f"--label-noise changes labels and {self.method} does not use labels")
        self._on_several_ranks(rule)
        if self.record.online_probe and not rule.classifies:
            raise InputError(f"--online-probe uses labels in every step and {self.method} has none; use `gradlens probe` after training")
        if self.compile and not rule.compiles:
            raise InputError(f"--compile: {self.method} changes what happens inside blocks, and compiled blocks cannot be changed")
        listed = f"gradlens list methods {reference({'own': self.own}, 'method') or self.method}"
        for name in self.options:
            fields = rule.Options.model_fields
            if (
                name not in fields and rule.Options.model_config.get("extra") != "allow"
            ):  # any option is taken of a rule whose file is not read
                raise unknown(f"option of {self.method}", name, [*fields, "lr"], listed)
        try:
            resolved = rule.Options(**self.options).model_dump()
        except ValidationError as error:
            raise InputError(f"option of {self.method}: {sentence(error, command=listed)}") from error
        object.__setattr__(self, "options", resolved)
        return self

    def _on_several_ranks(self, rule: type[Method]) -> None:
        """Check settings for several ranks before the process group is initialised."""
        pipelined = rule.pipelined and self.parallel.mode == "layers"
        if pipelined and self.record.every:
            raise InputError(
                "--record-every: torch's pipeline does not expose intermediate activations; with --parallel layers it must be 0"
            )
        if self.parallel.mode == "layers" and self.record.diagnose_every and self.record.every:
            raise InputError("--diagnose-every needs extra passes through all blocks: with --parallel layers it must be 0")
        if not pipelined and (self.parallel.schedule, self.parallel.microbatches) != ("1f1b", 4):
            raise InputError("--schedule and --microbatches apply to pipelined backprop only: bp with --parallel layers")
        if self.record.online_probe and self.parallel.ranks > 1:
            raise InputError("--online-probe needs whole batches in one process; use `gradlens probe` after training")
        if self.parallel.sync_batchnorm and self.compile:
            raise InputError("--compile: normalisation over several ranks (--sync-batchnorm) cannot be compiled")

    @property
    def rule(self) -> type[Method]:
        """The rule that ``method`` names; from a user's file, the version that this config was made with."""
        rule = rule_of(self.method, self.own)
        assert rule is not None  # `require_known` has refused other names
        return rule

    @classmethod
    def from_dict(cls, flat: Mapping[str, Any]) -> Config:
        """Build a config from settings by their flat names, as in config.json; a setting that is missing has its default.

        Raises:
            InputError: a setting is wrong; the first one, in one sentence.

        """
        try:
            return cls(**flat)
        except ValidationError as error:
            cause = error.errors()[0].get("ctx", {}).get("error")
            if isinstance(cause, InputError):
                raise cause from error  # with the traceback of a user's file, where it is that
            raise InputError(sentence(error, Config)) from error

    def as_dict(self, *, include: Collection[str] | None = None, exclude: Collection[str] = ()) -> dict[str, Any]:
        """Return all settings, or some, by their flat names: what config.json holds, in its order."""
        return {name: v for name, v in flattened(self).items() if name not in exclude and (include is None or name in include)}

    def replace(self, **flat: Any) -> Config:
        """Copy the config with some settings replaced, by their flat names.

        Raises:
            InputError: they do not go with the others.

        """
        return self.from_dict({**self.as_dict(), **flat})

    def with_data(self, name: str) -> Config:
        """Copy the config with its data under another name, unchecked: where a run's data are now."""
        return self.model_copy(update={"data": self.data.model_copy(update={"name": name})})

    def in_one_process(self) -> Config:
        """Copy the config for a run in a single process."""
        return self.model_copy(update={"parallel": ParallelSettings()})

    def digest(self) -> str:
        """Return six hex digits that identify this config: a hash of its JSON, without later settings at their defaults.

        A later setting is marked ``since="0.2.0"``; a rule's later option ``Field(..., json_schema_extra={"since": "0.2.0"})``.
        So the runs of version 0.1.0, whose fields bear no mark, keep their names whatever is added.
        """
        flat = self.as_dict()
        for name, said in settings_of(type(self)).items():
            if said.since and flat[name] == said.default:
                del flat[name]
        later = later_defaults(self.rule.Options, self.options)
        flat["own"] = named_by(self.own)
        flat["options"] = {name: value for name, value in self.options.items() if name not in later}
        try:
            content = to_json(flat, inf_nan_mode="null")
        except PydanticSerializationError:  # of a path that is no UTF-8
            content = json.dumps(flat).encode()
        return hashlib.sha256(content).hexdigest()[:6]

    def run_name(self) -> str:
        """Return ``<method>-<data>-<model>-s<seed>-<digest>``."""
        data = short_reference("data", Path(self.data.name).resolve().name) or "images"
        return f"{self.method}-{data}-{short_reference('model', self.model.name)}-s{self.seed}-{self.digest()}"

    def differences(self, other: Config) -> list[str]:
        """List the settings in which another config differs, each with both values.

        Where both configs' data have paths, these do not count: data are compared by their fingerprints.
        """
        mine, theirs = self.as_dict(), other.as_dict()
        if self.data.name not in DATASETS and other.data.name not in DATASETS:
            del mine["data"]
        files = difference(mine.pop("own"), theirs.pop("own"))
        said = [f"{name} {theirs[name]!r} there, {mine[name]!r} here" for name in mine if mine[name] != theirs[name]]
        return [*said, files] if files else said


def make_config(**settings: Any) -> Config:
    """Build a validated config.

    Raises:
        InputError: a setting is wrong; the first one, in one sentence.

    """
    return Config.from_dict(settings)
