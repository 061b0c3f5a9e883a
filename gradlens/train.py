"""The only loop, and the only writer of ``.grad``. It knows no method by name."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gradlens.augment import crop_and_flip, input_of
from gradlens.config import Config
from gradlens.data_split import Data, Split
from gradlens.diagnostics import Descent, sparse_rows
from gradlens.errors import INTERRUPTED, InputError, Stopped
from gradlens.longtable import read_table
from gradlens.method import Heard, Method, Step, Update, backward
from gradlens.objectives import LOSSES
from gradlens.optimizers import lr_factor, make_optimizer
from gradlens.passes import Pass
from gradlens.recorder import Row, rank_rows, step_rows, true_updates, whole_update
from gradlens.run import Metric, Timing, Writer, save_result
from gradlens.runtime_interrupts import interruptible
from gradlens.runtime_memory import peak_memory_mb
from gradlens.seeding import forked, generator, key
from gradlens.setup import Pair, make_pair, put_weights
from gradlens.shard import Shard, Sums, all_sum, current, part, sharded, stream, total
from gradlens.synchronised import synchronise
from gradlens.tables import TRAIN_EVAL, best_epoch
from gradlens.world import ALONE, World, in_touch

if TYPE_CHECKING:
    from gradlens.online import OnlineProbe
    from gradlens.spread import Spread

CHECKPOINT_SECONDS = 60.0  # between checkpoints within an epoch; when they are written does not change what is computed


class Outcome(NamedTuple):
    """What one update reports, on the device and of all ranks together: reading it is the caller's choice."""

    loss: Tensor  # scalar: the rule's loss at the block that answers
    hits: Tensor  # scalar: right answers among ``answered``
    images: int  # what the loss is the mean over; 0: the block that answers was not trained
    answered: Tensor  # scalar: images that were answered and whose label is known; 0 for rules that give no answers
    rows: list[Row]  # empty on steps that are not recorded


def _put(p: Tensor, grad: Tensor) -> None:
    """Write (or, for a parameter that two blocks share, add) a gradient, in the parameter's own memory layout.

    The fused optimisers walk parameter and gradient side by side in memory and do not look at strides.
    """
    if p.grad is not None:
        grad = p.grad + grad
    p.grad = grad if grad.stride() == p.stride() else torch.empty_like(p).copy_(grad)


def _kept(passes: Iterator[Pass], stored: list[Pass]) -> Iterator[Pass]:
    """The passes as they are made, kept for the truth: a recorded step runs in the same order as any other."""
    for p in passes:
        stored.append(p)
        yield p


class Section(Protocol):
    """Which of the network's blocks this process runs, and what it hears of the others."""

    def passes(self, method: Method, blocks: Sequence[nn.Module], x: Tensor, y: Tensor) -> Iterator[Pass]:
        """The passes of one step, lazily."""

    def heard(self) -> Callable[[], Heard] | None:
        """What gives the message of the rank above; None where there is none."""

    def passed_on(self, u: Update) -> None:
        """A block has been told its gradient."""

    def late(self) -> Mapping[str, Tensor]:
        """Gradients of the rule's own modules from messages of earlier batches."""

    def measured(self, number: int, pair: Pair, step: Step, diagnose: bool, by_rank: bool) -> tuple[list[Row], Descent | None]:
        """The rows of a recorded step, and on a diagnosed one the descent test to be asked after the optimiser's step."""


class Whole:
    """All blocks, in one process or on a part of the batch."""

    def passes(self, method: Method, blocks: Sequence[nn.Module], x: Tensor, y: Tensor) -> Iterator[Pass]:
        """As the rule makes them."""
        return method.forward(blocks, x, y)

    def heard(self) -> None:
        """Nobody is above."""

    def passed_on(self, u: Update) -> None:
        """Nobody is below."""

    def late(self) -> Mapping[str, Tensor]:
        """Nothing comes late."""
        return {}

    def measured(self, number: int, pair: Pair, step: Step, diagnose: bool, by_rank: bool) -> tuple[list[Row], Descent | None]:
        """The rows of a recorded step; on a diagnosed one the sparse rows too."""
        names, method, here = pair.names(), pair.method, current()
        truth = true_updates(method, step, keep=diagnose)
        mine = {k: u.grad.params for k, u in step.updates.items()}
        step = step._replace(updates={k: whole_update(u) for k, u in step.updates.items()})
        rows = step_rows(number, names, method, step, truth)
        if by_rank and here is not None:
            rows += rank_rows(number, here.rank, names, mine, truth)
        if not diagnose:
            return rows, None
        rows += sparse_rows(number, names, method, step, truth)
        return rows, Descent(number, names, method, step, truth)


WHOLE = Whole()


def update(
    pair: Pair,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    record: int | None = None,
    bf16: bool = False,
    diagnose: bool = False,
    see: Callable[[Update], None] | None = None,
    by_rank: bool = False,
    section: Section = WHOLE,
) -> Outcome:
    """One step of any rule: passes, the rule's gradients, and one optimiser step. On a shared batch all ranks make it together.

    Args:
        pair: network and rule.
        optimizer: over both.
        x: [N, C, H, W] network input.
        y: [N] labels.
        record: the step's number if the truth is to be measured on it.
        bf16: compute the passes in bfloat16 (weights and sums stay float32).
        diagnose: on a recorded step, add the sparser rows of ``diagnostics``.
        see: shown each block's update as it is made, to look at.
        by_rank: on a recorded step of a shared batch, add rows of this rank's own gradient.
        section: the blocks that this process runs.

    """
    model, method = pair
    blocks = list(model)
    loss, hits, answered = (torch.zeros((), device=x.device) for _ in range(3))
    images = 0
    kept: dict[int, Update] = {}
    rows: list[Row] = []
    descent: Descent | None = None
    optimizer.zero_grad(set_to_none=True)
    sums = Sums(_put)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
        stored: list[Pass] = []
        passes = section.passes(method, blocks, x, y)
        if record is not None:
            passes = _kept(passes, stored)
        for u in backward(method, passes, keep=record is not None, listen=section.heard()):
            params = dict(u.p.block.named_parameters())
            for name, grad in u.grad.params.items():
                sums.add(params[name], grad)
            for name, grad in u.own.items():
                sums.add(method.get_parameter(name), grad)
            if u.signal.loss is not None and u.k == method.top:  # never a mixture of heads' losses
                loss, images = u.signal.loss, total(len(u.p.y))
            if u.signal.answer is not None and u.k == method.top:
                hits, answered = (u.signal.answer.argmax(1) == u.p.y).sum(), (u.p.y >= 0).sum()
            if record is not None:
                kept[u.k] = u
            section.passed_on(u)
            if see is not None:
                see(u)
            del u  # a block's tensors must not outlive its turn
        for name, grad in section.late().items():
            sums.add(method.get_parameter(name), grad)
        sums.finish()
        if record is not None:
            rows, descent = section.measured(record, pair, Step(blocks, x, y, stored, kept), diagnose, by_rank)
    stored.clear()  # measured and done with, before the optimiser makes its state
    kept.clear()
    optimizer.step()
    if descent is not None:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):  # a new one: it caches what it casts, the old weights too
            rows += descent.rows()
    if current() is not None:
        loss, hits, answered = all_sum(torch.stack([loss.double(), hits.double(), answered.double()])).unbind()
    return Outcome(loss, hits, images, answered, rows)


@torch.no_grad()
def evaluate(pair: Pair, split: Split, to_input: Callable[[Tensor], Tensor], config: Config, world: World = ALONE) -> tuple[float, float]:
    """(loss, accuracy) of a split in eval mode, NaN for rules that give no answers; the modes are put back, nothing else changes.

    Of several ranks with the same weights each evaluates every n-th batch; all get the same numbers, those of one process to the bit.
    """
    model, method = pair
    found: list[Tensor] = []  # of each batch: loss × images, right answers
    images = 0
    device = split.labels.device
    nothing = torch.zeros(2, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
    modes = model.training, method.training
    model.eval(), method.eval()
    for i in range(0, len(split), config.batch_size):
        batch, labels = split.images[i : i + config.batch_size], split.labels[i : i + config.batch_size]
        if i and method.least_batch > 1 and len(labels) < config.batch_size:
            continue  # the rest at the end: an objective over a smaller batch is another one
        images += len(labels)
        if i // config.batch_size % world.ranks != world.rank:
            found.append(nothing)
            continue
        x, y = method.task(batch, labels, -1 - i, to_input)
        hits = nothing[1]
        with torch.autocast(x.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            if method.classifies:
                z = method.predict(list(model), x)
                hits = (z.argmax(1) == y).sum()
                loss = LOSSES[config.loss](z, y)
            else:
                loss = method.assess(list(model), x, y)
        found.append(torch.stack([(loss * len(labels)).to(nothing), hits.to(nothing)]))
    model.train(modes[0]), method.train(modes[1])
    losses, right = world.summed(torch.stack(found)).cpu().sum(0).tolist()
    return losses / images, right / images if method.classifies else math.nan


class Position(NamedTuple):
    """Where a run is, as its checkpoint says it."""

    step: int  # updates made
    sums: tuple[float, int, float, int]  # this epoch so far: loss × images, images, right answers, images answered
    best: dict[str, float]  # split -> highest accuracy so far
    seconds: float  # spent in this epoch's steps so far


NOTHING = (0.0, 0, 0.0, 0)


def batches_per_epoch(images: int, batch_size: int) -> int:
    """Updates in one epoch; a last batch of a single image is left out, since batch statistics of one image are none."""
    whole, rest = divmod(images, batch_size)
    return whole + (rest > 1 or whole == 0)


Watch = Callable[[str, dict[str, Any]], None]  # what happened, and its numbers: the progress display, a logger


def silent(event: str, numbers: dict[str, Any]) -> None:
    """Nobody watches."""


def _spread(training: Training) -> Spread:
    """This rank's part of a network whose blocks are spread over several; these modules update by this one."""
    if training.pair.method.pipelined:
        from gradlens.pipeline import Pipeline

        return Pipeline(training)
    if "buffer" in training.pair.method.reads:
        from gradlens.queues import Queues

        return Queues(training)
    from gradlens.layers import Layers

    return Layers(training)


class Training:
    """One run: its network, rule, optimiser and position; :meth:`go` takes it to its end."""

    def __init__(self, config: Config, data: Data, device: torch.device, writer: Writer | None = None, world: World = ALONE) -> None:
        self.config, self.device, self.writer, self.world = config, device, writer, world
        self.pair = make_pair(config, data.shape, len(data.classes), device)
        if config.sync_batchnorm:
            synchronise(*self.pair)
        self.optimizer = make_optimizer(config, self.pair)
        self.base_lr = [group["lr"] for group in self.optimizer.param_groups]
        learned_from = data.everything if self.pair.method.unlabelled else data.train
        self.train, self.test, self.test_name = learned_from.to(device), data.test.to(device), data.test_name
        self.to_input = input_of(config.normalize, data, device)
        self.per_epoch = batches_per_epoch(len(self.train), config.batch_size)
        self.total = config.epochs * self.per_epoch
        if config.steps is not None:
            self.total = min(self.total, config.steps)
        self.at = Position(0, NOTHING, {}, 0.0)
        self.saved = 0  # updates in the last checkpoint
        self.probe: OnlineProbe | None = None
        if config.online_probe:
            from gradlens.online import OnlineProbe  # which reads runs, and so needs this module

            self.probe = OnlineProbe(self.pair.names(), len(data.classes))
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))
        self.layers: Spread | None = _spread(self) if config.parallel == "layers" and not world.alone else None

    # ------------------------------------------------------------------------------------------------ the data's order

    def images(self, step: int) -> int:
        """How many there are in an update's batch."""
        return min(self.config.batch_size, len(self.train) - step % self.per_epoch * self.config.batch_size)

    def shard(self, step: int) -> Shard | None:
        """Which part of an update's batch this rank works on; None: all of it."""
        if self.config.parallel != "data" or self.world.alone:
            return None
        return part(self.images(step), self.world.rank, self.world.ranks)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """The input [N, *] and targets [N, *] of an update (images and labels, or the rule's task), or this rank's part of them.

        A pure function of config and step.
        """
        epoch, i = divmod(step, self.per_epoch)
        if self._order[0] != epoch:
            order = torch.randperm(len(self.train), generator=generator(self.config.seed, "order", epoch))
            self._order = epoch, order.to(self.device)
        chosen, shard = self._order[1][i * self.config.batch_size : (i + 1) * self.config.batch_size], self.shard(step)
        if shard is not None:
            chosen = chosen[shard.start : shard.stop]
        taken = self.train.take(chosen)
        with sharded(shard):
            images = crop_and_flip(taken.images, self.config.seed, step) if self.config.augment else taken.images
            return self.pair.method.task(images, taken.labels, step, self.to_input)

    # ---------------------------------------------------------------------------------------------------- saved state

    def state(self) -> dict[str, Any]:
        """All that is needed to go on bit-identically; plain tensors and numbers. All ranks must ask: they may each hold a part of it."""
        with sharded(self.shard(0)):
            return self._state()

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.pair.model.state_dict(),
            "method": self.pair.method.state_dict(),
            "optimizer": self.layers.optimizer_state(self.optimizer) if self.layers else self.optimizer.state_dict(),
            "step": self.at.step,
            "position": self.at._asdict(),
            "tables": self.writer.mark() if self.writer else {},
            **({"probe": self.probe.state()} if self.probe else {}),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a saved state, tables included."""
        with sharded(self.shard(0)):
            for module, name in zip(self.pair, ("model", "method"), strict=True):
                put_weights(module, state[name], "the checkpoint does not fit this config")
        try:
            self.optimizer.load_state_dict(state["optimizer"])
            if self.layers:
                self.layers.keep_own(self.optimizer)
            self.at, tables = Position(**state["position"]), dict(state["tables"])
            if self.probe:
                self.probe.restore(state["probe"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise InputError(f"the checkpoint does not fit this config: {str(error).splitlines()[0]}") from error
        self.saved = self.at.step
        if self.writer:
            self.writer.rewind(tables)

    def snapshot_steps(self) -> set[int]:
        """The updates after which weights are kept: ``keep_checkpoints`` of them, evenly spread, the last one included."""
        n = self.config.keep_checkpoints
        return {round(i * self.total / n) for i in range(1, n + 1)} if n and self.total else set()

    # -------------------------------------------------------------------------------------------------------- the loop

    def go(self, watch: Watch = silent) -> dict[str, Any]:
        """Train to the end and return the summary.

        Raises:
            Stopped: Ctrl-C (saved, status 130), or a loss that is not finite (what was saved before is kept, status 1).
            InputError: the run directory cannot be written any more.

        """
        snapshots = self.snapshot_steps()
        flush_every = 1 if self.device.type == "cpu" else 20  # reading a loss waits for an accelerator
        pending: list[tuple[int, Outcome]] = []
        saved_at = time.monotonic()
        with interruptible() as interrupted, forked(), in_touch(lambda: self.at.step, self._kept):
            if self.at.step == 0 and not self.at.best:
                self._evaluate(0, watch)
                self._save()
            while self.at.step < self.total:
                step, (epoch, i) = self.at.step, divmod(self.at.step, self.per_epoch)
                began = time.perf_counter()
                last, keep = i == self.per_epoch - 1 or step + 1 == self.total, step + 1 in snapshots
                due = time.monotonic() - saved_at > CHECKPOINT_SECONDS and self.pair.method.saved_within_epochs
                if self.layers:
                    made, stop, due = self.layers.step(step, interrupted(), due)
                    full = False
                else:
                    made, stop = self._step(step), interrupted()
                    full = len(pending) + 1 >= flush_every
                    if not self.world.alone:
                        stop, due = self.world.agreed(stop, due) if last or full else (False, False)
                pending.append((step, made))
                self.at = self.at._replace(step=step + 1)
                if last or stop or keep or due or full:
                    if self.layers:
                        pending = self.layers.meet(pending)
                    self._flush(pending, epoch + 1, watch)
                self.at = self.at._replace(seconds=self.at.seconds + time.perf_counter() - began)
                watch("step", {"step": step + 1, "total": self.total, "epoch": epoch + 1, **self._running()})
                if last:
                    self._end_of_epoch(epoch + 1, watch)
                if keep:
                    self._snapshot()
                if stop or due or last:
                    self._save()
                    saved_at = time.monotonic()
                if stop and self.at.step < self.total:
                    raise Stopped(f"interrupted after {self.at.step} of {self.total} updates; saved", INTERRUPTED)
            summary = self._finish(watch)
            if self.world.agreed(interrupted(), False)[0]:  # in the last step or evaluation: this run is finished, but no other shall begin
                raise Stopped("interrupted; this run was at its end and is finished", INTERRUPTED)
        return summary

    def prepared(self, step: int) -> tuple[int | None, bool]:
        """Ready for an update: its learning rate, its draws, the rule's start; whether it is recorded (its number) and diagnosed."""
        config = self.config
        for group, lr in zip(self.optimizer.param_groups, self.base_lr, strict=True):
            group["lr"] = lr * lr_factor(config, step, self.total)
        with sharded(self.shard(step)):
            torch.manual_seed(key(config.seed, "step", *stream(step)))  # dropout and the like
        self.pair.method.start(step // self.per_epoch + 1, step)
        recorded = bool(config.record_every) and step % config.record_every == 0
        diagnosed = recorded and bool(config.diagnose_every) and step // config.record_every % config.diagnose_every == 0
        return step if recorded else None, diagnosed

    def _step(self, step: int) -> Outcome:
        """One update with all blocks."""
        config = self.config
        x, y = self.batch(step)
        number, diagnosed = self.prepared(step)
        see = partial(self.probe.see, step) if self.probe else None
        with sharded(self.shard(step)):
            return update(self.pair, self.optimizer, x, y, number, config.precision == "bf16", diagnosed, see, config.record_ranks)

    def _flush(self, pending: list[tuple[int, Outcome]], epoch: int, watch: Watch) -> None:
        """Read what the last updates reported; a loss that is not finite ends the run."""
        values = torch.stack([torch.stack([o.loss.float(), o.hits.float(), o.answered.float()]) for _, o in pending]).tolist()
        for (step, outcome), (loss, hits, answered) in zip(pending, values, strict=True):
            self._must_be_finite("loss", loss, epoch, step)
            a, b, c, d = self.at.sums
            self.at = self.at._replace(sums=(a + loss * outcome.images, b + outcome.images, int(c + hits), int(d + answered)))
            rows = self._rows_of_all_ranks(outcome.rows)
            if rows and self.writer:
                self.writer.append("gradients", rows)
                watch("rows", {"rows": rows})
        pending.clear()
        if self.probe:
            rounds, streams = self.probe.taken()
            if rounds and self.writer:
                self.writer.append("online", rounds)
                for block, content in streams.items():
                    self.writer.extend(f"online/{block}.bin", content)

    def _rows_of_all_ranks(self, rows: list[Row]) -> list[Row]:
        """All have the same rows, but for those of each rank's own gradient."""
        if not (rows and self.config.record_ranks):
            return rows
        mine = f"rank{self.world.rank}"
        own = self.world.every([row for row in rows if row.kind == mine])
        return [row for row in rows if row.kind != mine] + [row for theirs in own for row in theirs]

    def _must_be_finite(self, what: str, loss: float, epoch: int, step: int) -> None:
        if not math.isfinite(loss):
            where = f"epoch {epoch}, step {step}"
            raise Stopped(f"{self.config.method}: the {what} became {loss} in {where} (lr {self.config.lr:g}){self._kept()}")

    def _kept(self) -> str:
        return f"; what was saved after {self.saved} updates is in {self.writer.path}" if self.writer else ""

    def _running(self) -> dict[str, float]:
        total, n, hits, answered = self.at.sums
        rate = n / self.at.seconds if self.at.seconds else 0.0
        return {"loss": total / n if n else math.nan, "accuracy": hits / answered if answered else math.nan, "images_per_s": rate}

    def _metric(self, split: str, epoch: int, loss: float, accuracy: float, watch: Watch) -> None:
        best = max(self.at.best.get(split, -math.inf), accuracy) if math.isfinite(accuracy) else math.nan
        self.at = self.at._replace(best={**self.at.best, split: best})
        row = Metric(split, epoch, self.at.step, loss, accuracy, best)
        if self.writer:
            self.writer.append("metrics", [row])
        watch("metric", row._asdict())

    def _evaluate(self, epoch: int, watch: Watch) -> None:
        watch("evaluate", {"epoch": epoch})
        self._same_buffers()
        loss, accuracy = evaluate(self.pair, self.test, self.to_input, self.config, self.world)
        self._metric(self.test_name, epoch, loss, accuracy, watch)
        self._must_be_finite(f"{self.test_name} loss", loss, epoch, self.at.step)
        if self.config.evaluate_train:  # only looked at: a loss that is not finite here ends no run that would go on without it
            self._metric(TRAIN_EVAL, epoch, *evaluate(self.pair, self.train, self.to_input, self.config, self.world), watch)

    def _same_buffers(self) -> None:
        """Rank 0's buffers (BatchNorm's running statistics) become everybody's, before they are read."""
        if self.config.parallel == "data" and not self.config.sync_batchnorm and not self.world.alone:
            for module in self.pair:
                for buffer in module.buffers():
                    dist.broadcast(buffer, 0)

    def _end_of_epoch(self, epoch: int, watch: Watch) -> None:
        running = self._running()
        self._metric("train", epoch, running["loss"], running["accuracy"], watch)
        self._evaluate(epoch, watch)
        if self.writer:
            self.writer.append("timing", [Timing(epoch, self.at.seconds, running["images_per_s"], peak_memory_mb(self.device))])
        self.at = self.at._replace(sums=NOTHING, seconds=0.0)

    def _save(self) -> None:
        if self.writer or not self.world.alone:
            state = self.state()
            if self.writer:
                self.writer.save(state)
            self.saved = self.at.step

    def _snapshot(self) -> None:
        with sharded(self.shard(0)):
            weights = {"model": self.pair.model.state_dict(), "method": self.pair.method.state_dict(), "step": self.at.step}
        if self.writer:
            self.writer.save(weights, f"snapshots/step-{self.at.step:08d}.pt")

    def _finish(self, watch: Watch) -> dict[str, Any]:
        summary: dict[str, Any] = {"updates": self.at.step}
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
