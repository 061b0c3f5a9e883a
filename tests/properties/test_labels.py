"""A rule that says it reads no labels says the same whatever they are."""

import pytest
import torch
from oracles import SUPERVISED, UNLABELLED, case, rule, step
from rule_cases import IMAGES, every_rule, holds, is_asked_of_no_other, posed

from gradlens.data.transforms import normalizer
from gradlens.gradients.method import Method
from gradlens.methods import METHODS


@every_rule("labels")
def test_what_reads_no_labels_says_the_same_whatever_they_are(name, network):
    holds("labels", name, network)


def test_the_check_of_labels_leaves_out_the_rules_it_says():
    is_asked_of_no_other("labels")


@pytest.mark.parametrize("name", SUPERVISED)
def test_a_signal_below_the_top_changes_with_the_labels_where_reads_says_so(name):
    c = case("basic-cnn")
    method = rule(name, c)
    if name == "greedy":
        method.start(1, 0)  # in its last stage only the output block reads a label
    passes, updates = step(method, c)
    differs = []
    for k in range(min(len(passes), len(c.model) - 1)):
        other = {p.k: p._replace(y=(p.y + 1) % 10) for p in passes}
        told, before = method.signal(k, other, updates[k].received).delta, updates[k].signal.delta
        differs.append(before is not None and not torch.equal(told, before))
    assert any(differs) == bool({"labels", "output_error"} & METHODS[name].depends_on)


@pytest.mark.parametrize("name", UNLABELLED)
def test_labels_are_never_read(name):
    method, c = posed(name)
    passes, updates = step(method, c)
    other = make_labels_wrong(method, name)
    for k, p in enumerate(passes):
        told = method.signal(k, {q.k: q._replace(y=other) if other is not None else q for q in passes}, updates[k].received).delta
        assert torch.equal(told, updates[k].signal.delta)
        assert updates[k].signal.logits is None
        assert p is passes[k]


def make_labels_wrong(method: Method, name: str) -> torch.Tensor | None:
    """What the task makes of other labels; None where the targets are not labels at all."""
    to_input = normalizer("pm1", IMAGES)
    tasks = [method.make_inputs(IMAGES, labels, 5, lambda i: to_input(i).double()) for labels in (torch.arange(6), torch.zeros(6).long())]
    assert torch.equal(tasks[0][0], tasks[1][0])  # the same views of the same images
    return tasks[1][1]
