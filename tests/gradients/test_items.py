"""Items of a batch: what counts as one, by what is declared; and what a task of one batch must define."""

import pytest
import torch

from gradlens.gradients.items import ROWS, Items
from gradlens.gradients.losses import cross_entropy
from gradlens.runtime.batch_items import global_items
from gradlens.runtime.errors import InputError
from gradlens.tasks.registry import TASKS
from gradlens.tasks.scores import HIGHER_IS_BETTER
from gradlens.tasks.task import Task
from gradlens.training.metrics import sign_of


class Positions(Items):
    per_item = True


def test_items_are_what_has_a_target():
    classes, padded = torch.tensor([2, -1, 0, 1]), torch.tensor([[0, 1, -1], [2, -1, -1]])
    assert (Items().count(classes), Positions().count(padded), Items().count(padded)) == (3, 3, 2)
    assert (ROWS.count(classes), TASKS["images"].count(classes), TASKS["language"].count(padded)) == (4, 4, 6)
    numbers = torch.zeros(4, 5, 3)
    assert (Items().count(numbers), Positions().count(numbers), Items().count(numbers[0, :, 0])) == (4, 20, 5)


def test_the_loss_of_a_position_does_not_grow_with_the_length():
    z, y = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0)), torch.full((3, 7), 2)
    y[0, :4] = -1
    Positions().make_known(y)
    assert global_items(y) == 17
    want = sum(-z[n, t].log_softmax(0)[2] for n in range(3) for t in range(7) if y[n, t] >= 0) / 17
    torch.testing.assert_close(cross_entropy(z, y), want)


def test_a_task_of_one_batch_defines_what_is_divided_and_permuted():
    with pytest.raises(TypeError, match=r"^Whole is of one batch, .*: define halves, permutation$"):
        type("Whole", (Task,), {"one_batch": True})
    type("Some", (Task,), {"one_batch": True, "halves": lambda *_: None, "permutation": lambda *_: None})


def test_every_score_has_a_direction_and_an_unknown_one_none():
    assert {task.score_name for task in TASKS.values()} <= set(HIGHER_IS_BETTER)
    assert (sign_of("accuracy"), sign_of("perplexity"), sign_of("")) == (1, -1, 1)
    with pytest.raises(InputError, match="unknown score 'preplexity'; nearest: perplexity"):
        sign_of("preplexity")
