"""One frozen, validated object that says everything an experiment depends on; where it is stored and run is not part of it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from gradlens.data.datasets import DEFAULT
from gradlens.data.transforms import NORMALIZATIONS
from gradlens.gradients.losses import LOSSES
from gradlens.gradients.method import Method
from gradlens.methods import BASELINE, METHODS
from gradlens.models.spec import ACTIVATIONS, ATTENTIONS
from gradlens.models.zoo import MODELS
from gradlens.runtime.errors import InputError, unknown
from gradlens.training.user_references import difference, rule_of, settle_references, short_reference

CHOICES: dict[str, Collection[str]] = {
    "method": METHODS,
    "model": MODELS,
    "activation": ACTIVATIONS,
    "attention": ATTENTIONS,
    "loss": LOSSES,
    "normalize": NORMALIZATIONS,
    "cut": ("after-pool", "before-pool"),
    "optimizer": ("adam", "adamw", "sgd", "sgdw", "rmsprop", "lars"),
    "lr_schedule": ("constant", "cosine", "step"),
    "precision": ("fp32", "bf16"),
    "parallel": ("none", "data", "layers"),
    "schedule": ("1f1b", "gpipe"),
}


class Config(BaseModel, frozen=True, extra="forbid"):
    """The settings of one run. Build it with :func:`make_config`, which turns what is wrong into one sentence."""

    method: str = BASELINE
    options: dict[str, Any] = {}  # the method's own, resolved
    data: str = DEFAULT
    limit: int | None = Field(None, ge=1)
    limit_test: int | None = Field(None, ge=1)
    labels: float | None = Field(None, gt=0, le=1)
    label_noise: float = Field(0.0, ge=0, le=1)
    validation: float = Field(0.0, ge=0, lt=1)
    augment: bool = False
    normalize: str = "pm1"
    model: str = "basic-cnn"
    width: int | None = Field(None, ge=1)
    depth: int | None = Field(None, ge=1)
    stem: Literal[3, 5, 7] | None = None
    activation: str = "relu"
    attention: str = "none"
    cut: str = "after-pool"
    loss: str = "ce"
    epochs: int = Field(12, ge=0)
    steps: int | None = Field(None, ge=0)
    batch_size: int = Field(256, ge=1)
    optimizer: str = "adam"
    lr: float = Field(3e-4, ge=0, allow_inf_nan=False)
    momentum: float = Field(0.0, ge=0, lt=1)
    nesterov: bool = False
    beta1: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0, allow_inf_nan=False)
    lr_schedule: str = "constant"
    warmup: int = Field(0, ge=0)
    seed: int = Field(0, ge=0)
    precision: str = "fp32"
    compile: bool = False
    record_every: int = Field(10, ge=0)
    diagnose_every: int = Field(5, ge=0)
    keep_checkpoints: int = Field(0, ge=0)
    evaluate_train: bool = False
    online_probe: bool = False
    init_from: str | None = None
    keep_head: int = Field(0, ge=0)
    teacher: str | None = None
    ranks: int = Field(1, ge=1)  # processes that share the run; what they work on:
    parallel: str = "none"
    sync_batchnorm: bool = False
    record_ranks: bool = False
    split: list[int] | None = None
    stale: bool = False
    schedule: str = "1f1b"
    microbatches: int = Field(4, ge=1)
    # of a rule or network from the user's file: the file and its fingerprint, see training/user_references.py
    own: dict[str, dict[str, Any]] = {}

    @field_validator(*CHOICES)
    @classmethod
    def _known(cls, value: str, info: Any) -> str:
        if value not in CHOICES[info.field_name]:
            raise unknown(info.field_name.replace("_", " "), value, CHOICES[info.field_name])
        return value

    @model_validator(mode="before")
    @classmethod
    def _own_defaults(cls, values: dict[str, Any]) -> dict[str, Any]:
        """A method's own defaults where nothing is said; its own ``lr`` among its options is the run's learning rate."""
        values = settle_references(values)
        rule = rule_of(str(values.get("method", BASELINE)), values.get("own", {}))
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
        rule = self.rule
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
        if self.compile and not self.rule.compiles:
            raise InputError(f"--compile: {self.method} changes what happens inside blocks, and compiled ones cannot be changed")
        own = self.rule.Options
        for name in self.options:
            if name not in own.model_fields and own.model_config.get("extra") != "allow":  # a rule whose file is not read takes any
                raise unknown(f"option of {self.method}", name, [*own.model_fields, "lr"])
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
        pipelined = self.rule.pipelined and self.parallel == "layers"
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

    @property
    def rule(self) -> type[Method]:
        """The rule that ``method`` names: of a user's file the version that this config was made with."""
        rule = rule_of(self.method, self.own)
        assert rule is not None  # `_known` has refused other names
        return rule

    def digest(self) -> str:
        """Six hex digits that name this config among others: a hash of its JSON, without later settings at their defaults.

        A later setting is a field, here or in a rule's ``Options``, that is marked ``Field(..., json_schema_extra={"since": "0.2.0"})``.
        So the runs of version 0.1.0, whose fields bear no mark, keep their names whatever is added.
        """
        options = later_defaults(self.rule.Options, self.options)
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
    later = {
        name: field
        for name, field in kind.model_fields.items()
        if isinstance(field.json_schema_extra, dict) and "since" in field.json_schema_extra
    }
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
        return str(unknown("setting", name, Config.model_fields))
    label = f"{'--' + name.replace('_', '-') if known else name}: "
    if first["type"] == "literal_error":
        return label + str(unknown("value", str(first["input"]), re.findall(r"[\w-]+", first["ctx"]["expected"].replace(" or ", " "))))
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
