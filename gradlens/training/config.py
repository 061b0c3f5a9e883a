"""The settings of an experiment as one frozen, validated object; where it is stored and run is not part of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticSerializationError, to_json

from gradlens.gradients.losses import LOSSES
from gradlens.gradients.method import Method
from gradlens.methods import BASELINE, METHODS
from gradlens.models.zoo import INPUT, INPUTS, MODELS
from gradlens.runtime.errors import InputError, unknown
from gradlens.tasks.registry import DEFAULT, TASKS
from gradlens.training.config_fields import EVERYTHING, Settings, flattened, later_defaults, nested, sentence, setting, settings_of
from gradlens.training.setting_groups import (
    COURSE,
    DataSettings,
    ModelSettings,
    OptimizerSettings,
    ParallelSettings,
    PretrainedSettings,
    RecordSettings,
)
from gradlens.training.user_references import difference, named_by, reference, require_known, rule_of, settle_references, short_reference


class Config(Settings, frozen=True):
    """The settings of one run. Build it with :func:`make_config`, which reports an error in one sentence.

    A setting is defined once, here or in the group it belongs to: `python tools/write_settings.py` makes its flag.

    Attributes:
        method: name of the rule, a key of ``METHODS``, or FILE.py:CLASS of a user's.
        options: options of the rule, by name; all of them, with the defaults of the rule where they were not given.
        task: what an example, an item and a score are, a key of ``TASKS``.
        task_options: options of the task, by name; all of them.
        data: the data set and what is done to it: ``data.name``, ``data.limit``, ``data.label_noise``, ….
        model: the network: ``model.name``, ``model.width``, ``model.cut``, ….
        loss: the supervised loss, a key of ``LOSSES``.
        epochs: number of passes over the training images; 0: the untrained network.
        steps: number of updates after which the run ends, if that is before the epochs do; None: no limit.
        early_stopping: epochs without a better validation score after which the run ends, with the best one's weights; None: it does not.
        batch_size: images per update, of all ranks together.
        optimizer: the optimiser and the learning rate with its schedule: ``optimizer.name``, ``optimizer.lr``, ….
        seed: seed of all random numbers.
        precision: "fp32" or "bf16".
        compile: whether blocks are compiled by torch.
        record: what is recorded and stored, and how often: ``record.every``, ``record.keep_checkpoints``, ….
        pretrained: the run that the network's weights are taken from, if any: ``pretrained.run``, ``pretrained.keep_head``.
        teacher: run directory of the teacher, for rules with ``has_teacher``.
        parallel: several ranks: ``parallel.ranks``, ``parallel.mode``, ….
        own: "method", "model" or "data" -> file, fingerprint and facts, of what comes from a user's file.

    """

    PANEL = "Training"

    method: str = setting(BASELINE, "", choices=METHODS, own=True)
    options: dict[str, Any] = Field({})  # the method's own, resolved
    task: str = setting(DEFAULT, "what is learned: {choices}", choices=TASKS, since="0.2.0")
    task_options: dict[str, Any] = Field({}, json_schema_extra={"since": "0.2.0"})  # the task's own, resolved
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
    early_stopping: int | None = setting(
        None,
        "stop after N epochs without a better validation score, with the weights of the best one",
        panel=COURSE,
        ge=1,
        since="0.2.0",
        synonyms=("patience", "early-stop", "early-stopping-patience"),
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
        task = TASKS.get(str(flat.get("task", DEFAULT)))
        network = str(flat.get("model", task.defaults.get("model") if task else None))
        on = rule.defaults_on.get(network, {}) if rule and (task is None or task.settings_of_networks) else {}
        own = {**rule.defaults, **on} if rule else {}
        theirs = own.get("optimizer", OptimizerSettings.model_fields["name"].default)
        if flat.get("optimizer", theirs) == theirs:  # a bundle: another optimiser takes none of it
            flat = {**own, **flat}
        flat = {**(task.defaults_for(flat) if task else {}), **flat}
        options = flat.get("options")
        if isinstance(options, dict) and "lr" in options:
            flat = {**flat, "options": {k: v for k, v in options.items() if k != "lr"}, "lr": options["lr"]}
        return nested(cls, flat)

    @model_validator(mode="after")
    def _of_this_rule(self) -> Config:
        rule = self.rule
        self._of_this_task(rule)
        if self.teacher is not None and not rule.has_teacher:
            raise InputError(f"--teacher: {self.method} has no teacher; distil has one")
        if self.teacher is None and rule.has_teacher:
            raise InputError(f"{self.method} needs --teacher RUN, the run directory of the teacher network")
        if self.data.label_noise and not rule.classifies:
            raise InputError(f"--label-noise changes labels and {self.method} does not use labels")
        if self.early_stopping is not None and (rule.in_stages or not rule.classifies):
            why = "trains its blocks in stages, of which it would leave some out" if rule.in_stages else "has no validation score"
            raise InputError(f"--early-stopping: {self.method} {why}; leave it out")
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
            suits = TASKS[self.task].rule_options
            given = {name: value for name, value in suits.items() if name in rule.Options.model_fields} | self.options
            resolved = rule.Options(**given).model_dump()
        except ValidationError as error:
            raise InputError(f"option of {self.method}: {sentence(error, command=listed)}") from error
        object.__setattr__(self, "options", resolved)
        return self

    def _of_this_task(self, rule: type[Method]) -> None:
        """Check rule, network and settings for the task, and resolve its options."""
        task = TASKS[self.task]
        if (why := rule.images_only) and self.task != DEFAULT:
            refused = f"{self.method} is a rule of the image task and cannot be used with --task {self.task}"
            raise InputError(f"{refused}: {task.with_items(why)}")
        if rule.reads_classes and not task.classes_of_items:
            raise InputError(f"{self.method} cannot be used with --task {self.task}, whose items have no class: {rule.reads_classes}")
        reads = INPUTS.get(self.model.name, INPUT)
        if "model" not in self.own and reads != task.reads:
            fit = [name for name in MODELS if INPUTS.get(name, INPUT) == task.reads]
            raise InputError(f"--model {self.model.name} reads {reads}, --task {self.task} has {task.reads}: set one of {', '.join(fit)}")
        unused = [name for name, known in settings_of(DataSettings).items() if name not in {"data", *task.settings}]
        for name in unused:
            if getattr(self.data, name) != settings_of(DataSettings)[name].default:
                raise InputError(f"--{name.replace('_', '-')} has no meaning for --task {self.task}: leave it out")
        if self.loss not in task.losses:
            raise unknown(f"loss of --task {self.task}", self.loss, task.losses)
        if task.not_data_parallel and self.parallel.mode == "data":
            raise InputError(f"--parallel data cannot be used with --task {self.task}: {task.not_data_parallel}")
        if self.record.online_probe and self.task != DEFAULT:
            raise InputError(f"--online-probe reads a label an image: it has no meaning for --task {self.task}")
        try:
            resolved = task.Options(**self.task_options).model_dump()
        except ValidationError as error:
            raise InputError(f"option of task {self.task}: {sentence(error, command=f'gradlens list tasks {self.task}')}") from error
        object.__setattr__(self, "task_options", resolved)

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
        if self.optimizer.clip is not None and self.parallel.mode == "layers":
            raise InputError("--clip scales the gradient of all blocks together, of which each rank has some with --parallel layers")
        if self.parallel.sync_batchnorm and self.compile:
            raise InputError("--compile: normalisation over several ranks (--sync-batchnorm) cannot be compiled")

    @property
    def rule(self) -> type[Method]:
        """Return the rule that ``method`` names; from a user's file, the version that this config was made with.

        Returns:
            a class below ``Method``.

        """
        rule = rule_of(self.method, self.own)
        assert rule is not None  # `require_known` has refused other names
        return rule

    @classmethod
    def from_dict(cls, flat: Mapping[str, Any]) -> Config:
        """Build a config from settings by their flat names, as in config.json; a setting that is missing has its default.

        Args:
            flat: name of a setting -> value; nested settings by their flat names (``lr``, ``data``, ``model``).

        Returns:
            the validated config.

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
        """Return settings by their flat names: what config.json holds, in its order.

        Args:
            include: only these; None: all.
            exclude: without these.

        Returns:
            name of a setting -> value.

        """
        return {name: v for name, v in flattened(self).items() if name not in exclude and (include is None or name in include)}

    def replace(self, **flat: Any) -> Config:
        """Copy the config with some settings replaced, by their flat names.

        Args:
            flat: flat name of a setting -> its new value.

        Returns:
            a new config, validated.

        Raises:
            InputError: they do not go with the others.

        """
        return self.from_dict({**self.as_dict(), **flat})

    def with_data(self, name: str) -> Config:
        """Copy the config with its data under another name, unchecked: where a run's data are now.

        Args:
            name: a data set, or the path of its folder or file.

        Returns:
            a new config.

        """
        return self.model_copy(update={"data": self.data.model_copy(update={"name": name})})

    def in_one_process(self) -> Config:
        """Copy the config for a run in a single process.

        Returns:
            a new config, with the defaults of all ``parallel`` settings.

        """
        return self.model_copy(update={"parallel": ParallelSettings()})

    def digest(self) -> str:
        """Return six hex digits that identify this config: a hash of its JSON, without later settings at their defaults.

        A later setting is marked ``since="0.2.0"``; a rule's later option ``Field(..., json_schema_extra={"since": "0.2.0"})``.
        So the runs of version 0.1.0, whose fields bear no mark, keep their names whatever is added.

        Returns:
            six hex digits.

        """
        flat = self.as_dict()
        for name, known in settings_of(type(self)).items():
            if known.since and flat[name] == known.default:
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
        """Return the name of the config's run directory.

        Returns:
            ``<method>-<data>-<model>-s<seed>-<digest>``.

        """
        data = short_reference("data", Path(self.data.name).resolve().name) or "images"
        return f"{self.method}-{data}-{short_reference('model', self.model.name)}-s{self.seed}-{self.digest()}"

    def differences(self, other: Config) -> list[str]:
        """List the settings in which another config differs, each with both values.

        Where both configs' data have paths, these do not count: data are compared by their fingerprints.

        Args:
            other: the config that is "there" in the sentences, this one is "here".

        Returns:
            a phrase for each setting; empty if the configs are equal.

        """
        mine, theirs = self.as_dict(), other.as_dict()
        named = {name for task in TASKS.values() for name in task.data_sets()}
        if not named & {self.data.name, other.data.name}:
            del mine["data"]
        files = difference(mine.pop("own"), theirs.pop("own"))
        lines = [f"{name} {theirs[name]!r} there, {mine[name]!r} here" for name in mine if mine[name] != theirs[name]]
        return [*lines, files] if files else lines


def make_config(**settings: Any) -> Config:
    """Build a validated config; a setting that is not given has the rule's default, else its own.

    Args:
        settings: by their flat names, as in config.json: ``method="dgl"``, ``data="digits"``, ``lr=0.1``, ``options={"hidden": 1}``, …;
            ``gradlens train --help`` lists them, with dashes.

    Returns:
        the config, frozen.

    Raises:
        InputError: a setting is wrong; the first one, in one sentence.

    """
    return Config.from_dict(settings)
