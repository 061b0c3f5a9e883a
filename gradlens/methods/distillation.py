"""Train a student from the outputs of a trained network, on images with and without labels (distillation)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from gradlens.gradients.block_pass import Pass
from gradlens.gradients.losses import distillation
from gradlens.gradients.method import Method, Signal, relay
from gradlens.gradients.network_info import NetworkInfo
from gradlens.runtime.batch_shard import all_reduce_sum, sharded


class DistilOptions(BaseModel, frozen=True, extra="forbid"):
    """Options of distil."""

    temperature: float = Field(1.0, gt=0, description="divisor of both networks' logits")
    alpha: float = Field(1.0, ge=0, le=1, description="weight of the teacher's loss; 1 - alpha that of the labels', for labelled images")


class Distil(Method):
    """delta_K = d [α tau² CE(softmax(t/tau), z/tau) + (1−α) CE(y, z)] / dz, delta_k = (dh_{k+1}/dh_k)ᵀ delta_{k+1}; t: a teacher's logits.

    Hinton et al. 2015 (arXiv 1503.02531, §2); Chen et al. 2020 (arXiv 2006.10029, eq. 2–3). The first term is the mean over all images,
    the second over the batch's labelled ones. The teacher (``--teacher RUN``) is in eval mode, has the student's input and is not trained.
    """

    summary = "learns from a trained network's outputs"
    other_names = ("distillation", "knowledge distillation", "distill", "kd")
    Options: ClassVar[type[BaseModel]] = DistilOptions
    depends_on = frozenset({"input", "backward_message"})
    unlabelled = True
    has_teacher = True
    images_only = "its teacher is a network of images"

    def __init__(self, net: NetworkInfo, options: Any) -> None:
        super().__init__(net, options)
        assert net.teacher is not None
        self.teacher = net.teacher  # a function: no part of this rule's state

    @property
    def objective(self) -> str:
        """Name the loss of teacher and labels together."""
        return "distillation loss"

    def signal(self, k: int, passes: Mapping[int, Pass], received: tuple[Tensor, ...]) -> Signal:
        """Use the gradient from block k+1 and pass it down; at the output block the objective's gradient."""
        if k < self.num_blocks - 1:
            return relay(received)
        p = passes[k]
        assert p.image is not None
        loss = self._loss(p.z, p.y, self.teacher(p.image))
        (delta,) = torch.autograd.grad(loss, p.z)
        return Signal(delta, (delta,), loss=loss.detach(), logits=p.z.detach())

    def _loss(self, z: Tensor, y: Tensor, taught: Tensor) -> Tensor:
        alpha, known = float(self.options.alpha), y >= 0
        loss = alpha * distillation(z, taught, self.options.temperature)
        if alpha == 1:
            return loss
        labelled = int(all_reduce_sum(known.sum()))  # in the whole batch
        if bool(known.any()):
            z, y = z[known], y[known]
            with sharded(None):  # the mean over this rank's labelled images, weighted by its share of all ranks'
                self.items.make_known(y)
                loss = loss + (1 - alpha) * self.loss(z, y) * (len(y) / labelled)
        return loss
