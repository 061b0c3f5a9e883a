"""Log of a run in training: rows and metrics for its tables, events for its progress display, and losses that end it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gradlens.runtime.csv_tables import read_table
from gradlens.runtime.errors import Stopped
from gradlens.runtime.eval_mode import eval_mode
from gradlens.runtime.memory import peak_memory_mb
from gradlens.runtime.progress import Watch
from gradlens.runtime.step_context import step_context
from gradlens.training.early_stopping import summary_of
from gradlens.training.evaluation import Evaluation, evaluate
from gradlens.training.metrics import TRAIN, TRAIN_EVAL, VALIDATION, best_epoch, best_held_out, sign_of
from gradlens.training.run_directory import Metric, Timing, save_result
from gradlens.training.run_writer import Writer
from gradlens.training.saving import saved_note
from gradlens.training.state import NO_SUMS, TrainState
from gradlens.training.step import Outcome


class RunLog:
    """Log that keeps a run's sums and tables.

    Args:
        state: the run; its position is advanced.
        writer: of the run directory; None: nothing is written here.
        watch: called with each event.

    """

    def __init__(self, state: TrainState, writer: Writer | None, watch: Watch) -> None:
        self.state, self.writer, self.watch = state, writer, watch

    def outcomes(self, made: Sequence[tuple[int, Outcome]], epoch: int) -> None:
        """Read the outcomes of updates; raise Stopped if a loss is not finite."""
        values = torch.stack([torch.stack([o.loss.float(), o.hits.float(), o.answered.float()]) for _, o in made]).tolist()
        for (step, outcome), (loss, hits, answered) in zip(made, values, strict=True):
            self._must_be_finite("loss", loss, epoch, step)
            a, b, c, d = self.state.position.sums
            sums = (a + loss * outcome.items, b + outcome.items, int(c + hits), int(d + answered))
            self.state.position = self.state.position._replace(sums=sums)
            if outcome.rows:
                self._append("gradients", outcome.rows)
                self.watch("rows", {"rows": outcome.rows})
        if self.state.probe:
            rounds, streams = self.state.probe.take_rows()
            if rounds and self.writer:
                self.writer.append("online", rounds)
                for block, content in streams.items():
                    self.writer.extend(f"online/{block}.bin", content)

    def step(self, epoch: int) -> None:
        """Report the progress of the run."""
        done = {"step": self.state.position.step, "total": self.state.batches.total, "epoch": epoch}
        self.watch("step", {**done, **self._running()})

    def evaluation(self, epoch: int) -> None:
        """Evaluate the held-out split, and with ``--evaluate-train`` the training images. Collective: call on every rank."""
        self.watch("evaluate", {"epoch": epoch})
        state, config = self.state, self.state.config
        state.stage.share_buffers()
        found = evaluate(state.network, state.test, state.batches.to_input, config, state.ranks)
        self._metric(state.test_name, epoch, found)
        self._must_be_finite(f"{state.test_name} loss", found.loss, epoch, state.position.step)
        if state.selection is not None:
            self._metric(VALIDATION, epoch, evaluate(state.network, state.selection, state.batches.to_input, config, state.ranks))
        if config.record.evaluate_train:  # a non-finite loss here does not end the run: training itself does not use it
            self._metric(TRAIN_EVAL, epoch, evaluate(state.network, state.labelled, state.batches.to_input, config, state.ranks))

    def end_of_epoch(self, epoch: int) -> None:
        """Evaluate, and reset the sums for the next epoch."""
        running = self._running()
        of_output = math.nan if self.state.network.method.terms else running["loss"]  # the sum of several terms is no score's loss
        score = self.state.batches.task.running_score(of_output, running["accuracy"])
        self._metric(TRAIN, epoch, Evaluation(running["loss"], running["accuracy"], score))
        self.evaluation(epoch)
        position, memory = self.state.position, peak_memory_mb(self.state.batches.device)
        self._append("timing", [Timing(epoch, position.seconds, running["images_per_s"], memory)])
        self.state.position = self.state.position._replace(sums=NO_SUMS, seconds=0.0)

    def summary(self) -> dict[str, Any]:
        """Return best and final numbers; with a run directory, store them, which marks the run as finished."""
        summary: dict[str, Any] = {"updates": self.state.position.step}
        if self.writer is None:
            return summary
        rows = read_table(self.writer.path / "metrics.csv", Metric)
        held = self.state.test_name
        for split in dict.fromkeys(row.split for row in rows):
            mine = [row for row in rows if row.split == split]
            best = best_held_out(rows) if split == held and self.state.selection is not None else best_epoch(mine)
            summary[split] = {
                "best_accuracy": best.accuracy, "best_epoch": best.epoch,
                "final_accuracy": mine[-1].accuracy, "final_loss": mine[-1].loss, "final_epoch": mine[-1].epoch,
            }  # fmt: skip
            if best.score_name not in ("", "accuracy"):
                summary[split] |= {"score": best.score_name, "best_score": best.score, "final_score": mine[-1].score}
        summary |= summary_of(self.state)
        if self.state.probe and self.state.probe.blocks:
            self.watch("regret", {})
            save_result(self.writer.path, "online", {"rows": self.state.probe.regret(self.writer.path)})
        if text := self._sample():
            summary["sample"] = text
        self.writer.finish(summary)
        return summary

    def _sample(self) -> str:
        """Return the task's text of the trained network; none where other ranks hold some of its blocks."""
        state = self.state
        if not state.network.method.classifies or state.config.parallel.mode == "layers":
            return ""
        device, (model, method) = state.batches.device, state.network

        def predict(x: Tensor) -> Tensor:
            return method.predict(list(model), x.to(device)).cpu()

        with torch.no_grad(), eval_mode(model, method), step_context({}):
            return state.batches.task.sample(predict, state.data, state.config)

    def _append(self, table: str, rows: Sequence[Any]) -> None:
        if self.writer:
            self.writer.append(table, rows)

    def _metric(self, split: str, epoch: int, found: Evaluation) -> None:
        position = self.state.position
        name = self.state.batches.task.score_name if self.state.network.method.classifies else ""
        best, sign = position.best.get(split, math.nan), sign_of(name)
        if math.isfinite(found.score) and not sign * best >= sign * found.score:  # NaN: no score so far
            best = found.score
        self.state.position = position._replace(best={**position.best, split: best})
        row = Metric(split, epoch, position.step, found.loss, found.accuracy, best, found.score if name else math.nan, name)
        self._append("metrics", [row])
        self.watch("metric", row._asdict())

    def _must_be_finite(self, what: str, loss: float, epoch: int, step: int) -> None:
        if not math.isfinite(loss):
            config = self.state.config
            where = f"epoch {epoch}, step {step} (lr {config.optimizer.lr:g})"
            raise Stopped(f"{config.method}: the {what} became {loss} in {where}{saved_note(self.state, self.writer)}")

    def _running(self) -> dict[str, float]:
        """Return this epoch's means so far."""
        total, n, hits, answered = self.state.position.sums
        rate = n / self.state.position.seconds if self.state.position.seconds else 0.0
        return {"loss": total / n if n else math.nan, "accuracy": hits / answered if answered else math.nan, "images_per_s": rate}
