"""The only loop: from one update to the next, with evaluations, checkpoints and tables between them. It knows no method by name."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from gradlens.data.split import Data
from gradlens.gradients.rows import Measurement
from gradlens.runtime.batch_shard import sharded
from gradlens.runtime.csv_tables import read_table
from gradlens.runtime.errors import INTERRUPTED, InputError, Stopped
from gradlens.runtime.interrupts import interruptible
from gradlens.runtime.memory import peak_memory_mb
from gradlens.runtime.process_group import SINGLE_PROCESS, ProcessGroup, stop_on_lost_rank
from gradlens.runtime.progress import Watch, no_progress
from gradlens.runtime.rng import forked
from gradlens.training.config import Config
from gradlens.training.metrics import TRAIN_EVAL, best_epoch
from gradlens.training.run_directory import Metric, Timing, save_result
from gradlens.training.run_writer import Writer
from gradlens.training.state import TrainState
from gradlens.training.step import Outcome, StageLike, UpdateProbe, evaluate, training_step

CHECKPOINT_SECONDS = 60.0  # between checkpoints within an epoch; when they are written does not change what is computed


class Position(NamedTuple):
    """Where a run is, as its checkpoint says it."""

    step: int  # updates made
    sums: tuple[float, int, float, int]  # this epoch so far: loss × images, images, right answers, images answered
    best: dict[str, float]  # split -> highest accuracy so far
    seconds: float  # spent in this epoch's steps so far


NOTHING = (0.0, 0, 0.0, 0)


class Training(TrainState):
    """One run: what is trained, and its position; :meth:`fit` takes it to its end.

    Whoever makes it attaches what the config asks for: ``layers`` (:func:`gradlens.training.parallel.choose.stage_of`), ``probe``.
    """

    def __init__(
        self, config: Config, data: Data, device: torch.device, writer: Writer | None = None, world: ProcessGroup = SINGLE_PROCESS
    ) -> None:
        super().__init__(config, data, device, world)
        self.writer = writer
        self.position = Position(0, NOTHING, {}, 0.0)
        self.saved = 0  # updates in the last checkpoint
        self.probe: UpdateProbe | None = None
        self.stage: StageLike | None = None

    # ---------------------------------------------------------------------------------------------------- saved state

    def state(self) -> dict[str, Any]:
        """All that is needed to go on bit-identically; plain tensors and numbers. All ranks must ask: they may each hold a part of it."""
        return {
            "model": self.pair.model.state_dict(),
            "method": self.pair.method.state_dict(),
            "optimizer": self.stage.optimizer_state(self.optimizer) if self.stage else self.optimizer.state_dict(),
            "step": self.position.step,
            "position": self.position._asdict(),
            "tables": self.writer.mark() if self.writer else {},
            **({"probe": self.probe.state()} if self.probe else {}),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a saved state, tables included."""
        with sharded(self.shard(0)):
            self.pair.load(state, "the checkpoint does not fit this config")
        try:
            self.optimizer.load_state_dict(state["optimizer"])
            if self.stage:
                self.stage.keep_owned_state(self.optimizer)
            self.position, tables = Position(**state["position"]), dict(state["tables"])
            if self.probe:
                self.probe.restore(state["probe"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise InputError(f"the checkpoint does not fit this config: {str(error).splitlines()[0]}") from error
        self.saved = self.position.step
        if self.writer:
            self.writer.rewind(tables)

    def snapshot_steps(self) -> set[int]:
        """The updates after which weights are kept: ``keep_checkpoints`` of them, evenly spread, the last one included."""
        n = self.config.keep_checkpoints
        return {round(i * self.total / n) for i in range(1, n + 1)} if n and self.total else set()

    # -------------------------------------------------------------------------------------------------------- the loop

    def fit(self, watch: Watch = no_progress) -> dict[str, Any]:
        """Train to the end and return the summary.

        Raises:
            Stopped: Ctrl-C (saved, status 130), or a loss that is not finite (what was saved before is kept, status 1).
            InputError: the run directory cannot be written any more.

        """
        snapshots = self.snapshot_steps()
        flush_every = 1 if self.device.type == "cpu" else 20  # reading a loss waits for an accelerator
        pending: list[tuple[int, Outcome]] = []
        saved_at = time.monotonic()
        alone = self.world.is_single_process  # whatever is raised then is no lost rank's doing
        lost_rank = nullcontext() if alone else stop_on_lost_rank(lambda: self.position.step, self._saved_note)
        with interruptible() as interrupted, forked(), lost_rank:
            if self.position.step == 0 and not self.position.best:
                self._evaluate(0, watch)
                self._save()
            while self.position.step < self.total:
                step, (epoch, i) = self.position.step, divmod(self.position.step, self.per_epoch)
                began = time.perf_counter()
                last, keep = i == self.per_epoch - 1 or step + 1 == self.total, step + 1 in snapshots
                due = time.monotonic() - saved_at > CHECKPOINT_SECONDS and self.pair.method.saved_within_epochs
                if self.stage:
                    made, stop, due = self.stage.step(step, interrupted(), due)
                    full = False
                else:
                    made, stop = self._step(step), interrupted()
                    full = len(pending) + 1 >= flush_every
                    if not self.world.is_single_process:
                        stop, due = self.world.any_stop_or_save(stop, due) if last or full else (False, False)
                pending.append((step, made))
                self.position = self.position._replace(step=step + 1)
                if last or stop or keep or due or full:
                    if self.stage:
                        pending = self.stage.synchronize(pending)
                    self._flush(pending, epoch + 1, watch)
                self.position = self.position._replace(seconds=self.position.seconds + time.perf_counter() - began)
                watch("step", {"step": step + 1, "total": self.total, "epoch": epoch + 1, **self._running()})
                if last:
                    self._end_of_epoch(epoch + 1, watch)
                if keep:
                    self._snapshot()
                if stop or due or last:
                    self._save()
                    saved_at = time.monotonic()
                if stop and self.position.step < self.total:
                    raise Stopped(f"interrupted after {self.position.step} of {self.total} updates; saved", INTERRUPTED)
            summary = self._finish(watch)
            stopped, _ = self.world.any_stop_or_save(interrupted(), False)
            if stopped:  # in the last step or evaluation: this run is finished, but no other shall begin
                raise Stopped("interrupted; this run was at its end and is finished", INTERRUPTED)
        return summary

    def _step(self, step: int) -> Outcome:
        """One update with all blocks."""
        config = self.config
        on_update = partial(self.probe.on_update, step) if self.probe else None
        with sharded(self.shard(step)):
            x, y = self.batch(step)
            number, diagnosed = self.prepare_step(step)
            return training_step(
                self.pair, self.optimizer, x, y, number, config.precision == "bf16", diagnosed, on_update, config.record_ranks
            )

    def _flush(self, pending: list[tuple[int, Outcome]], epoch: int, watch: Watch) -> None:
        """Read what the last updates reported; a loss that is not finite ends the run."""
        values = torch.stack([torch.stack([o.loss.float(), o.hits.float(), o.answered.float()]) for _, o in pending]).tolist()
        for (step, outcome), (loss, hits, answered) in zip(pending, values, strict=True):
            self._must_be_finite("loss", loss, epoch, step)
            a, b, c, d = self.position.sums
            self.position = self.position._replace(sums=(a + loss * outcome.images, b + outcome.images, int(c + hits), int(d + answered)))
            rows = self._rows_of_all_ranks(outcome.rows)
            if rows and self.writer:
                self.writer.append("gradients", rows)
                watch("rows", {"rows": rows})
        pending.clear()
        if self.probe:
            rounds, streams = self.probe.take_rows()
            if rounds and self.writer:
                self.writer.append("online", rounds)
                for block, content in streams.items():
                    self.writer.extend(f"online/{block}.bin", content)

    def _rows_of_all_ranks(self, rows: list[Measurement]) -> list[Measurement]:
        """All have the same rows, but for those of each rank's own gradient."""
        if not (rows and self.config.record_ranks):
            return rows
        mine = f"rank{self.world.rank}"
        own = self.world.all_gather_object([row for row in rows if row.kind == mine])
        return [row for row in rows if row.kind != mine] + [row for theirs in own for row in theirs]

    def _must_be_finite(self, what: str, loss: float, epoch: int, step: int) -> None:
        if not math.isfinite(loss):
            where = f"epoch {epoch}, step {step}"
            raise Stopped(f"{self.config.method}: the {what} became {loss} in {where} (lr {self.config.lr:g}){self._saved_note()}")

    def _saved_note(self) -> str:
        return f"; what was saved after {self.saved} updates is in {self.writer.path}" if self.writer else ""

    def _running(self) -> dict[str, float]:
        total, n, hits, answered = self.position.sums
        rate = n / self.position.seconds if self.position.seconds else 0.0
        return {"loss": total / n if n else math.nan, "accuracy": hits / answered if answered else math.nan, "images_per_s": rate}

    def _metric(self, split: str, epoch: int, loss: float, accuracy: float, watch: Watch) -> None:
        best = max(self.position.best.get(split, -math.inf), accuracy) if math.isfinite(accuracy) else math.nan
        self.position = self.position._replace(best={**self.position.best, split: best})
        row = Metric(split, epoch, self.position.step, loss, accuracy, best)
        if self.writer:
            self.writer.append("metrics", [row])
        watch("metric", row._asdict())

    def _evaluate(self, epoch: int, watch: Watch) -> None:
        watch("evaluate", {"epoch": epoch})
        self._broadcast_buffers()
        loss, accuracy = evaluate(self.pair, self.test, self.to_input, self.config, self.world)
        self._metric(self.test_name, epoch, loss, accuracy, watch)
        self._must_be_finite(f"{self.test_name} loss", loss, epoch, self.position.step)
        if self.config.evaluate_train:  # only looked at: a loss that is not finite here ends no run that would go on without it
            self._metric(TRAIN_EVAL, epoch, *evaluate(self.pair, self.labelled, self.to_input, self.config, self.world), watch)

    def _broadcast_buffers(self) -> None:
        """Rank 0's buffers (BatchNorm's running statistics) become everybody's, before they are read."""
        if self.config.parallel == "data" and not self.config.sync_batchnorm and not self.world.is_single_process:
            for module in self.pair:
                for buffer in module.buffers():
                    dist.broadcast(buffer, 0)

    def _end_of_epoch(self, epoch: int, watch: Watch) -> None:
        running = self._running()
        self._metric("train", epoch, running["loss"], running["accuracy"], watch)
        self._evaluate(epoch, watch)
        if self.writer:
            self.writer.append("timing", [Timing(epoch, self.position.seconds, running["images_per_s"], peak_memory_mb(self.device))])
        self.position = self.position._replace(sums=NOTHING, seconds=0.0)

    def _save(self) -> None:
        if self.writer or not self.world.is_single_process:
            state = self.state()
            if self.writer:
                self.writer.save(state)
            self.saved = self.position.step

    def _snapshot(self) -> None:
        weights = {"model": self.pair.model.state_dict(), "method": self.pair.method.state_dict(), "step": self.position.step}
        if self.writer:
            self.writer.save(weights, f"snapshots/step-{self.position.step:08d}.pt")

    def _finish(self, watch: Watch) -> dict[str, Any]:
        summary: dict[str, Any] = {"updates": self.position.step}
        if self.writer:
            rows = read_table(self.writer.path / "metrics.csv", Metric)
            for split in dict.fromkeys(row.split for row in rows):
                mine = [row for row in rows if row.split == split]
                best = best_epoch(mine)
                summary[split] = {
                    "best_accuracy": best.accuracy, "best_epoch": best.epoch,
                    "final_accuracy": mine[-1].accuracy, "final_loss": mine[-1].loss, "final_epoch": mine[-1].epoch,
                }  # fmt: skip
            if self.probe and self.probe.blocks:
                watch("regret", {})
                save_result(self.writer.path, "online", {"rows": self.probe.regret(self.writer.path)})
            self.writer.finish(summary)
        return summary
