"""Layers whose output a backward pass did not reach: named where that is certain, and nowhere else."""

import contextlib
import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

import gradlens


class Cut(nn.Module):
    """Two layers; the second one does not use the first one's output, or not its graph, in one of several ways."""

    def __init__(self, cut=""):
        super().__init__()
        self.cut, self.c1, self.c2 = cut, nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, x):
        h = self.c1(x)
        return self.c2({"detach": h.detach(), "data": h.data, "unused": torch.ones(3, 4)}.get(self.cut, h))


WHY = "(detached, or not part of the loss); if meant: requires_grad_(False), layers= without it"
MISSED = f"called, but no backward pass reached the output of c1 {WHY}"


def batch():
    return torch.randn(3, 4)


def given(recwarn):
    """Return the warnings but those of layers that a case does not call."""
    return [str(w.message) for w in recwarn if "never called" not in str(w.message)]


@pytest.mark.parametrize("layers", [["c1", "c2"], ["c1"]])
@pytest.mark.parametrize("cut", ["detach", "data", "unused"])
@pytest.mark.parametrize("passes", ["named", "plain"])
def test_a_layer_that_no_backward_pass_reached_is_named_once(recwarn, layers, cut, passes):
    model = Cut(cut)
    with gradlens.Lens(model, layers) as lens:
        for _ in range(2):
            lens.clear()
            model.zero_grad()
            out = model(batch()).sum()
            for name in ("local", "true"):
                with lens.backward(name) if passes == "named" else contextlib.nullcontext():
                    out.backward(retain_graph=True)
            assert lens.unread() == [MISSED]
            if passes == "named" and "c2" in layers:
                assert {row.layer for row in lens.compare("local", "true")} == {"c2"}
        lens.clear()
        model.zero_grad()
    assert given(recwarn) == [f"Lens: {MISSED}, or warn=False"]


@pytest.mark.parametrize("layers", [["c1", "c2"], ["c1"]])
def test_a_model_that_returns_its_loss_is_judged_alike(recwarn, layers):
    class Loss(Cut):
        def forward(self, x):
            return super().forward(x).sum()

    model = Loss("detach")
    with gradlens.Lens(model, layers):
        model(batch()).backward()
    assert given(recwarn) == [f"Lens: {MISSED}, or warn=False"]


def test_what_the_sentence_advises_silences_it(recwarn):
    for options, frozen in (({"layers": ["c2"]}, False), ({"warn": False}, False), ({}, True)):
        model = Cut("detach")
        model.c1.requires_grad_(not frozen)
        with gradlens.Lens(model, **options):
            model(batch()).sum().backward()
    assert not recwarn.list


# -------------------------------------------------------------------------------------------------- nothing is named


def plain(model, lens):
    """A training pass that reaches every layer, then what a loop does to ``.grad``."""
    loss = model(batch()).sum()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)


def cut(model, lens):
    """A training pass through the second layer only."""
    model.cut = "detach"
    model(batch()).sum().backward()


def frozen(model, lens):
    model.c1.requires_grad_(False)
    plain(model, lens)


def twice(model, lens):
    """A network called twice, the second time as a fixed target."""
    (model(batch()) - model(batch()).detach()).square().sum().backward()


def paused(model, lens):
    with lens.paused():
        cut(Cut(), lens)
        cut(model, lens)


def one_of_two_steps(model, lens):
    plain(model, lens)
    lens.clear()
    cut(model, lens)


def inference(model, lens):
    model(batch())


def inference_without_graph(model, lens):
    with torch.no_grad():
        model(batch())
    with torch.inference_mode():
        model(batch())


def inference_then_training(model, lens):
    inference_without_graph(model, lens)
    inference(model, lens)
    plain(model, lens)


def zeros_after_a_step_before(model, lens):
    model(batch())
    model.zero_grad(set_to_none=False)


def zeros_after_a_step_before_and_evaluation(model, lens):
    model.eval()
    with torch.no_grad():
        model(batch())
    model.zero_grad(set_to_none=False)


def clipped(model, lens):
    model(batch())
    nn.utils.clip_grad_norm_(model.parameters(), 1e-6)


def head_in_evaluation_only(model, lens):
    """The second layer is called after training, without a graph; then comes another step."""
    for _ in range(2):
        model.c1(batch()).sum().backward()
        with torch.no_grad():
            model(batch())


def head_in_eval_mode_only(model, lens):
    model.c1(batch()).sum().backward()
    model.eval()
    model.c2(batch())
    model.train()
    model.c1(batch()).sum().backward()


def encoder_without_graph(model, lens):
    with torch.no_grad():
        h = model.c1(batch())
    model.c2(h).sum().backward()


def gradient_of_the_top(model, lens):
    torch.autograd.grad(model(batch()).sum(), list(model.c2.parameters()))


def backward_into_the_top(model, lens):
    model(batch()).sum().backward(inputs=list(model.c2.parameters()))


def two_heads_of_which_one_is_asked_for(model, lens):
    h = model.c1(batch())
    model.extra = nn.Linear(4, 1)
    torch.autograd.grad(model.c2(h.detach()).sum() + model.extra(h).sum(), list(model.c2.parameters()))


def head_in_a_step_without_backward(model, lens):
    model(batch())
    lens.clear()
    model.c1(batch()).sum().backward()


def named_and_empty(model, lens):
    model(batch())
    with lens.backward("true"):
        pass


def checkpointed(reentrant):
    def case(model, lens):
        x = batch().requires_grad_()
        model.c2(checkpoint(model.c1, x, use_reentrant=reentrant)).sum().backward()

    return case


CASES = {
    case.__name__: case
    for case in (
        plain, frozen, twice, paused, one_of_two_steps, inference, inference_without_graph, inference_then_training,
        zeros_after_a_step_before, zeros_after_a_step_before_and_evaluation, clipped, head_in_evaluation_only, head_in_eval_mode_only,
        encoder_without_graph, gradient_of_the_top, backward_into_the_top, two_heads_of_which_one_is_asked_for, named_and_empty,
        head_in_a_step_without_backward,
    )
} | {"checkpointed": checkpointed(False), "checkpointed, reentrant": checkpointed(True)}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_layer_that_no_gradient_is_expected_at_is_not_named(recwarn, case):
    model = Cut()
    model(batch()).sum().backward()  # outside of the block: .grad is there already
    with gradlens.Lens(model) as lens:
        CASES[case](model, lens)
        sentences = [sentence for sentence in lens.unread() if not sentence.startswith("never called")]
    assert sentences == []
    assert given(recwarn) == []


def test_a_backward_pass_through_a_graph_made_before_the_block_names_nothing(recwarn):
    model = Cut()
    loss = model(batch()).sum()
    with gradlens.Lens(model):
        model(batch())
        loss.backward()
    assert given(recwarn) == []


class WithTeacher(nn.Module):
    def __init__(self, teacher):
        super().__init__()
        self.student = nn.Linear(4, 4)
        self.teacher = AveragedModel(self.student) if teacher == "averaged" else copy.deepcopy(self.student)
        self.teacher.requires_grad_(True)
        if teacher == "frozen":
            self.teacher.requires_grad_(False)
        if teacher == "eval mode":
            self.teacher.eval()
        self.without = teacher == "no_grad"

    def forward(self, x):
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.without):
            target = self.teacher(x)
        return (self.student(x) - target.detach()).square().sum()


@pytest.mark.parametrize("teacher", ["frozen", "no_grad", "eval mode", "averaged"])
def test_a_teacher_is_not_named(recwarn, teacher):
    model = WithTeacher(teacher)
    with gradlens.Lens(model):
        for _ in range(2):
            model(batch()).backward()
    assert not recwarn.list


class Recurrent(nn.Module):
    def __init__(self, cut):
        super().__init__()
        self.cut, self.lstm, self.out = cut, nn.LSTM(4, 4), nn.Linear(4, 1)

    def forward(self, x):
        h = self.lstm(x)[0]
        return self.out(h.detach() if self.cut else h)


@pytest.mark.parametrize("cut", [True, False])
def test_a_layer_with_several_outputs_is_named_once_if_none_was_reached(recwarn, cut):
    model = Recurrent(cut)
    with gradlens.Lens(model):
        model(torch.randn(5, 2, 4)).sum().backward()
    assert given(recwarn) == [f"Lens: {MISSED.replace('c1', 'lstm')}, or warn=False"] * cut


@pytest.mark.parametrize("label", ["lstm", "lstm[0]"])
def test_a_layer_whose_output_could_not_be_read_is_not_named_a_second_time(label):
    model = Recurrent(True)
    with gradlens.Lens(model, ["lstm"], warn=False) as lens:
        model(torch.randn(5, 2, 4)).sum().backward()
        assert lens.unread() == [MISSED.replace("c1", "lstm")]
        lens._reader.unread[label] = "odd"
    assert lens.unread() == [f"{label} could not be read: odd"]


def test_a_lens_keeps_no_gradient_alive():
    model = Cut("detach")
    with gradlens.Lens(model, warn=False) as lens:
        for _ in range(2):
            model(batch()).sum().backward()
            old = weakref.ref(model.c2.weight.grad)
            model.zero_grad()
            gc.collect()
            assert old() is None
            lens.clear()
            assert not lens._reader._reached._hooks
        kept = model(batch())
        graph = weakref.ref(kept)
    del kept
    gc.collect()
    assert graph() is None
    assert lens.unread() == [MISSED]


def test_a_model_that_returns_anything_runs_as_without():
    class Odd(Cut):
        def forward(self, x):
            return {"out": [super().forward(x)], "more": ("text", None)}

    model = Odd("detach")
    with gradlens.Lens(model, ["c1"], warn=False) as lens:
        model(batch())["out"][0].sum().backward()
    assert lens.unread() == [MISSED]
