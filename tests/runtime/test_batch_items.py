"""The number of items belongs to a step's targets: of a copy it is unknown, and asking for it is an error."""

import pytest
import torch

from gradlens.gradients.losses import LOSSES
from gradlens.runtime.batch_items import ItemCount, item_count, set_items
from gradlens.runtime.batch_shard import Shard, sharded
from gradlens.runtime.step_context import in_step, step_context

Y = torch.tensor([[0, 1, -1], [2, -1, -1]])


@pytest.mark.parametrize("y", [Y, Y[:, 0], Y.double()])
def test_in_a_step_targets_have_the_number_that_was_made_known_and_copies_of_them_none(y):
    y = y.clone()
    with step_context():
        with pytest.raises(RuntimeError, match=r"targets \[2.* of a step have an unknown number of items: call Items.make_known"):
            item_count(y)
        set_items(y, 3)
        assert item_count(y) == ItemCount(3, 3)
        for copied in (y.clone(), y[:1], y.flip(0)):
            with pytest.raises(RuntimeError, match="unknown number"):
                item_count(copied)


def test_on_a_shared_batch_too():
    with sharded(Shard(0, 2, 4, 0, 2)), pytest.raises(RuntimeError, match="unknown number"):
        item_count(Y.clone())


def test_outside_of_steps_a_users_targets_are_counted():
    assert not in_step()
    assert item_count(Y.clone()) == ItemCount(3, 3)
    assert item_count(torch.zeros(4, 2)) == ItemCount(4, 4)
    z = torch.zeros(2, 3, 4)
    assert LOSSES["ce"](z, Y.clone()) == pytest.approx(torch.tensor(4.0).log().item())


def test_a_step_ends_with_its_context():
    with step_context():
        with step_context({}):
            assert in_step()
        assert in_step()
    with pytest.raises(ValueError, match="detach"), step_context({"t": torch.zeros(1, requires_grad=True)}):
        pass
    assert not in_step()
