"""A run's records for TensorBoard: scalars and first-layer filters, live while it trains or afterwards from its directory.

There is one event file a run, also when it is interrupted and resumed: it is written record by record through torch's and TensorBoard's own
encoders, since a ``SummaryWriter`` begins a new file every time it is opened, and writes from a thread whose failure is a traceback.
"""

from __future__ import annotations

import shutil
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from torch import Tensor
from torch.nn import functional as F

from gradlens.gradients.rows import Measurement
from gradlens.runtime.errors import Failsafe, InputError
from gradlens.runtime.extras import install_command
from gradlens.runtime.paths import reason
from gradlens.training.metrics import ACCURACY
from gradlens.training.run_directory import Metric, Run
from gradlens.training.run_files import must_be_writable, write

if TYPE_CHECKING:
    from gradlens.runtime.progress import Watch
    from gradlens.training.state import TrainState

FOLDER = "tensorboard"  # of a run that is logged while it trains
EVENTS = "events.out.tfevents.gradlens"  # TensorBoard reads every file with "tfevents" in its name
FILTERS = "filters/first layer"
MAGNIFIED = 8  # a filter's pixel is a square of so many


class Scalar(NamedTuple):
    """One point of one curve."""

    tag: str
    step: int  # updates made
    value: float


def row_scalars(rows: Iterable[Measurement]) -> Iterator[Scalar]:
    """Return ``cosine/weight/block1.conv`` and the like: what it is, of which gradient, where."""
    return (Scalar(f"{row.quantity}/{row.kind}/{row.layer}", row.step, row.value) for row in rows)


def metric_scalars(metrics: Iterable[Metric]) -> Iterator[Scalar]:
    """Yield ``loss/train``, ``accuracy/test``, …; accuracies that a rule without labels does not have are left out."""
    for m in metrics:
        yield Scalar(f"loss/{m.split}", m.step, m.loss)
        if m.accuracy == m.accuracy:
            yield Scalar(f"accuracy/{m.split}", m.step, m.accuracy)
        if m.score_name not in ("", ACCURACY) and m.score == m.score:
            yield Scalar(f"{m.score_name}/{m.split}", m.step, m.score)


def run_scalars(run: Run) -> Iterator[Scalar]:
    """Yield all curves of a run; where a step was both recorded and measured later, the recorded batch counts."""
    known = {row[:4] for row in run.gradients}
    yield from metric_scalars(run.metrics)
    yield from row_scalars(run.gradients)
    yield from row_scalars(row for row in run.measured if row[:4] not in known)


def filter_image(weights: Mapping[str, Tensor]) -> Tensor | None:
    """Return the filters of a network's first convolution as one picture [3, H, W] in [0, 1], each stretched to its own range.

    Args:
        weights: a network's state, bottom first.

    Returns:
        None where the first weights are not those of a convolution of grey or colour images.

    """
    first = next((w for w in weights.values() if w.ndim > 1), None)
    if first is None or first.ndim != 4 or first.shape[1] not in (1, 3):
        return None
    from torchvision.utils import make_grid

    large = F.interpolate(first.detach().float().cpu(), scale_factor=MAGNIFIED, mode="nearest")
    grid: Tensor = make_grid(large, nrow=8, padding=MAGNIFIED // 2, normalize=True, scale_each=True, pad_value=0.5)
    return grid


# ------------------------------------------------------------------------------------------------------ event files


def must_be_installed() -> None:
    """Check that TensorBoard can be written.

    Raises:
        InputError: it is not installed; the message gives the command to install it.

    """
    if find_spec("tensorboard") is None:
        raise InputError(f"writing for TensorBoard needs the package tensorboard: `{install_command('tensorboard')}`")


class Events:
    """An event file that grows; every call is on its way to the disk when it returns, or raises.

    Args:
        file: open for appending. A file that begins gets the version of the format first.

    """

    def __init__(self, file: BinaryIO) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from torch.utils.tensorboard import RecordWriter, summary

        self._event, self._summary, self.file = Event, summary, file
        self._records = RecordWriter(file)  # type: ignore[no-untyped-call]
        if not file.tell():
            self._add(0, file_version="brain.Event:2")
            self.file.flush()

    def _add(self, step: int, **content: Any) -> None:
        event = self._event(wall_time=time.time(), step=step, **content)
        self._records.write(event.SerializeToString())  # type: ignore[no-untyped-call]

    def scalars(self, points: Iterable[Scalar]) -> None:
        """Add points of curves."""
        for tag, step, value in points:
            self._add(step, summary=self._summary.scalar(tag, value))  # type: ignore[no-untyped-call]
        self.file.flush()

    def filters(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Add the picture of the first layer's filters, where it has one."""
        grid = filter_image(weights)
        if grid is not None:
            self._add(step, summary=self._summary.image(FILTERS, grid, dataformats="CHW"))  # type: ignore[no-untyped-call]
            self.file.flush()

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def records(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (whole record, the event in it) of an event file; one that a crash tore off is left out.

    A record is the event's length as uint64, four bytes of checksum, the event, four bytes of checksum.
    """
    at = 0
    while at + 12 <= len(content):
        end = at + 16 + struct.unpack_from("<Q", content, at)[0]
        if end > len(content):
            return
        yield content[at:end], content[at + 12 : end - 4]
        at = end


def rewound(content: bytes, step: int) -> bytes:
    """Return an event file cut back to a checkpoint: the records of ``step`` updates, and none of the updates that are made anew.

    A recorded row's step counts the updates made before it, a metric's and a picture's all updates made.
    """
    from tensorboard.compat.proto.event_pb2 import Event

    def keep(event: Any) -> bool:
        tags = [value.tag for value in event.summary.value]
        return event.step < step or (event.step == step and all(tag == FILTERS or tag.count("/") == 1 for tag in tags))

    return b"".join(record for record, event in records(content) if keep(Event.FromString(event)))


def appending(path: Path) -> BinaryIO:
    """Open a file for appending; make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("ab")


# ------------------------------------------------------------------------------------------------- while a run trains


@contextmanager
def logged(state: TrainState, folder: Path, watch: Watch) -> Iterator[Watch]:
    """Wrap a watch to write its events to ``folder``/tensorboard too; to be opened when the run is begun or restored.

    Args:
        state: the run, begun or restored; its network's filters are read when an epoch ends.
        folder: the run's.
        watch: is called as well.

    """
    safe = Failsafe("the TensorBoard log")
    opened: list[Events] = []
    path, step = folder / FOLDER / EVENTS, state.position.step

    def begin() -> None:
        if path.exists():  # of a run that is resumed, or of one that is overwritten
            write(path, rewound(path.read_bytes(), step) if state.position.best else b"")
        opened.append(Events(appending(path)))

    def see(event: str, numbers: dict[str, Any]) -> None:
        (events,) = opened
        if event == "rows":
            events.scalars(row_scalars(numbers["rows"]))
        elif event == "metric":
            events.scalars(metric_scalars([Metric(**numbers)]))
            if numbers["split"] == state.test_name:  # once an epoch, at its end
                events.filters(numbers["step"], state.network.model.state_dict())

    def both(event: str, numbers: dict[str, Any]) -> None:
        watch(event, numbers)
        safe(lambda: see(event, numbers))

    safe(begin)
    try:
        yield both
    finally:
        for events in opened:
            if safe.works:
                safe(events.close)
            else:
                with suppress(Exception):  # closing tries once more to write what did not fit
                    events.close()


# ------------------------------------------------------------------------------------------------------- afterwards


def check_export(runs: Sequence[Run], out: Path, overwrite: bool) -> None:
    """Check, before anything is written, that each run can get a folder of its name.

    Raises:
        InputError: TensorBoard is missing, two runs of one name, or a folder that is there already.

    """
    must_be_installed()
    must_be_writable(out)
    by_name: dict[str, Run] = {}
    for run in runs:
        name = run.path.resolve().name
        if name in by_name:
            raise InputError(f"{by_name[name].path} and {run.path} would both be {out / name}: give one of them, or each its own --out")
        by_name[name] = run
        if (out / name).exists() and not overwrite:
            raise InputError(f"{out / name} exists; --overwrite writes it anew, --out names another folder")
        if (out / name).exists() and not (out / name / EVENTS).exists():
            raise InputError(f"{out / name} is no export of gradlens: it is left as it is; --out names another folder")


def export(run: Run, out: Path) -> Path:
    """Write a run for TensorBoard, in a folder of the run's name; whole or not at all.

    Args:
        run: finished or not.
        out: the log folder; ``tensorboard --logdir`` takes it.

    Raises:
        InputError: the folder cannot be written, or a checkpoint that cannot be read.

    """
    path = out / run.path.resolve().name
    begun = path.with_name(f".{path.name}.tmp")
    state = run.checkpoint() if (run.path / "checkpoint.pt").exists() else None
    try:
        shutil.rmtree(begun, ignore_errors=True)
        events = Events(appending(begun / EVENTS))
        events.scalars(run_scalars(run))
        if state is not None:
            events.filters(int(state["step"]), state["model"])
        events.close()
        if path.exists():
            shutil.rmtree(path)
        begun.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {reason(error)}") from error
    finally:
        shutil.rmtree(begun, ignore_errors=True)
    return path
