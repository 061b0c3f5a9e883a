"""What one rank sends another: what the receiver was not told of is refused before it is sent."""

from typing import Any

import pytest
import torch

from gradlens.runtime import p2p
from gradlens.runtime.errors import InputError
from gradlens.runtime.p2p import Inbox, Outbox
from gradlens.runtime.process_group import ProcessGroup


class Store(dict[str, bytes]):
    """The launcher's store, in this process."""

    def set(self, key: str, value: str) -> None:
        assert key not in self
        self[key] = value.encode()

    def wait(self, keys: list[str], _: object) -> None:
        assert all(key in self for key in keys)


class Done:
    def wait(self) -> None:
        pass


@pytest.fixture
def ends(monkeypatch):
    """A sender and its receiver, both in this process."""
    way: list[torch.Tensor] = []

    def receive(into: torch.Tensor, *_: Any, **__: Any) -> Done:
        into.copy_(way.pop(0))
        return Done()

    monkeypatch.setattr(p2p.dist, "isend", lambda flat, *_, **__: (way.append(flat.clone()), Done())[1])
    monkeypatch.setattr(p2p.dist, "irecv", receive)
    store = Store()
    return Outbox(ProcessGroup(0, 2, store), 1, "up", 1), Inbox(ProcessGroup(1, 2, store), 0, "up", 1, torch.device("cpu"))


def test_what_arrives_lies_in_memory_as_it_was_sent(ends):
    outbox, inbox = ends
    images = torch.arange(48.0).reshape(2, 2, 3, 4).to(memory_format=torch.channels_last)
    for n in (2, 1, 2):
        outbox.send(n, [images[:n], torch.arange(n)])
        x, y = inbox.take(n)
        assert torch.equal(x, images[:n])
        assert x.stride() == images[:n].stride()
        assert torch.equal(y, torch.arange(n))


@pytest.mark.parametrize(
    "change",
    [lambda x: x.T.contiguous().T, lambda x: x.double(), lambda x: x[:, :2], lambda x: x.reshape(1, 9)],
    ids=["strides", "type", "size", "shape"],
)
def test_a_tensor_laid_out_otherwise_than_the_receiver_knows_is_refused(ends, change):
    outbox, inbox = ends
    x = torch.arange(9.0).reshape(3, 3)
    outbox.send(3, [x])
    inbox.take(3)
    with pytest.raises(InputError, match="it must be the same for every batch"):
        outbox.send(3, [change(x)])
    with pytest.raises(InputError, match="it must be the same for every batch"):
        outbox.send(3, [x, x])
    outbox.send(3, [x + 1])
    assert torch.equal(inbox.take(3)[0], x + 1)


def test_strides_that_say_nothing_may_differ(ends):
    outbox, inbox = ends
    x = torch.arange(6.0).reshape(3, 2, 1, 1)
    for mine in (x, x.as_strided(x.shape, (2, 1, 2, 2))):
        outbox.send(3, [mine])
        assert torch.equal(inbox.take(3)[0], x)
