"""Where and how runs are made: device, folders, data. An experiment's numbers do not depend on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from gradlens.data.files import DataFiles
from gradlens.data.folder_listing import FilesState
from gradlens.data.split import Data
from gradlens.runtime.errors import InputError, kind_of, unknown
from gradlens.runtime.memory import keep_freed_memory
from gradlens.runtime.process_group import SINGLE_PROCESS, ProcessGroup, local_device
from gradlens.tasks.images import clear_data_cache
from gradlens.tasks.registry import DEFAULT, TASKS
from gradlens.training.config import Config
from gradlens.training.config_fields import EVERYTHING, settings_of
from gradlens.training.typed_flags import DEVICES, check_device, check_run_flags

CPU = torch.device("cpu")


@dataclass(frozen=True)
class RunContext:
    """Where and how runs are made: all that the numbers of a run do not depend on.

    Attributes:
        out: folder in which run directories are made.
        name: name of the run directory; None: ``Config.run_name``.
        device: a torch device or its name; "auto": cuda, else mps, else cpu.
        data_dir: folder that holds data sets; None: the default one.
        download: whether a data set that is missing is downloaded.
        cache: whether decoded image folders are kept in the user's cache folder.
        resume: whether a run that was interrupted is continued.
        overwrite: whether a run that is there is replaced.
        tensorboard: whether events are also written to the run directory's ``tensorboard`` folder.
        ranks: the processes that share a run.
        files: data set -> facts of its files, read once in a command; None: read whenever data are requested.

    """

    out: Path = Path("runs")
    name: str | None = None  # of the run directory; default: Config.run_name
    device: torch.device = CPU
    data_dir: Path | None = None
    download: bool = False
    cache: bool = True  # keep decoded image folders in the user's cache folder
    resume: bool = False
    overwrite: bool = False
    tensorboard: bool = False  # write events to RUN_DIR/tensorboard
    ranks: ProcessGroup = SINGLE_PROCESS  # the processes that share a run
    # by name, facts of data sets' files, read once in a command; None: read whenever data are requested
    files: dict[str, FilesState] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("out", "data_dir"):
            value = getattr(self, name)
            if isinstance(value, str):
                object.__setattr__(self, name, Path(value))
            elif not isinstance(value, Path) and (value is not None or name == "out"):
                raise InputError(f"{name} of a RunContext must be a path, got {kind_of(value)}; set it to a Path or a text")
        device = getattr(self, "device")  # noqa: B009 - mypy takes it for a torch.device, and a notebook may give its name
        if isinstance(device, str):
            object.__setattr__(self, "device", pick_device(device))

    def path_of(self, config: Config) -> Path:
        """Return the run directory of a config.

        Args:
            config: the run's settings.

        Returns:
            ``out`` / its name; the directory need not be there.

        """
        return self.out / (self.name or config.run_name())


def pick_device(name: str) -> torch.device:
    """Return the device by its torch spelling; ``auto`` = cuda, else mps, else cpu; of several processes each has a GPU of its own.

    Raises:
        InputError: no such device here.

    """
    name = local_device(name)
    check_device(name)
    if name == "auto":
        mps = torch.backends.mps.is_available()
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:  # a number that torch cannot hold
        raise unknown("device", name, DEVICES) from None
    have = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[device.type]
    if (device.index or 0) >= have:
        raise InputError(f"--device {name}: this machine has {have or 'no'} {device.type} device{'s' * (have > 1)}")
    return device


def has_fast_bf16(device: torch.device) -> bool:
    """Return whether bfloat16 is computed natively there, so that it is faster than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    supports = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(supported() for supported in supports if supported is not None)


def pick_precision(name: str, device: torch.device) -> str:
    """Resolve a precision: ``auto`` becomes bf16 where that is native, and fp32 elsewhere.

    Raises:
        InputError: an unknown precision.

    """
    setting = settings_of(Config)["precision"]
    if name not in (known := (*setting.choices, *setting.typed)):
        raise unknown("precision", name, known, EVERYTHING)
    if name == "auto":
        return "bf16" if has_fast_bf16(device) else "fp32"
    return name


def load_data(config: Config, context: RunContext) -> Data:
    """Load the data of a config; the last ones loaded are kept, so that methods compared on the same data load them once."""
    return TASKS[config.task].load(config, DataFiles(context.data_dir, context.download, context.cache, context.files))


def shape_and_classes(config: Config, context: RunContext) -> tuple[tuple[int, ...], int]:
    """Return the shape of a config's examples, of images (C, H, W), and the number of classes; named data need not be there for it."""
    known = TASKS[config.task].shape_and_classes(config)
    if known is not None:
        return known
    data = load_data(config, context)
    return data.shape, len(data.classes)


def to_measure(config: Config, context: RunContext) -> tuple[tuple[int, ...], int, Data | None]:
    """Return :func:`shape_and_classes`, and the data on whose first batch costs are measured; None: images are generated."""
    return *shape_and_classes(config, context), None if config.task == DEFAULT else load_data(config, context)


def set_up_process(given: dict[str, Any]) -> RunContext:
    """Set this process up for the runs it makes (threads, memory, no data loaded), and return where and how they are made.

    Args:
        given: values of flags by name; those on where and how are taken out.

    Raises:
        InputError: flags that contradict each other, a device that is not there.

    """
    check_run_flags(given)
    clear_data_cache()
    threads = given.pop("threads", None)
    context = _context_of(given)
    if threads is not None:
        torch.set_num_threads(threads)
    if context.device.type == "cpu":
        keep_freed_memory()
    return context


def _context_of(given: dict[str, Any]) -> RunContext:
    """Take the flags on where and how out of those given."""
    taken = {k: given.pop(k) for k in ("data_dir", "download", "resume", "overwrite", "tensorboard") if k in given}
    name, out = given.pop("run_name", None), given.pop("out", Path("runs"))
    device, cache = pick_device(given.pop("device", "auto")), not given.pop("no_cache", False)
    return RunContext(out=out, name=name, device=device, cache=cache, files={}, **taken)
