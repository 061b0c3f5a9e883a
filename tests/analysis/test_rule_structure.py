"""What is observed of a rule's step is what the rule's equation says."""

from __future__ import annotations

import textwrap
from functools import cache

import pytest

from gradlens.analysis.rule_structure import RuleStructure, rule_structure
from gradlens.methods import METHODS
from gradlens.methods.custom import rule_in


@cache
def observed(name: str) -> RuleStructure:
    return rule_structure(name, METHODS[name])


def below_top(name: str):
    return observed(name).blocks[:-1]


@pytest.mark.parametrize("name", METHODS)
def test_what_is_observed_agrees_with_what_the_rule_declares(name):
    rule, found = METHODS[name], observed(name)
    used = {what for block in found.blocks[:-1] for what in block.error_signal}
    assert {"message"} & used <= ({"message"} if rule.depends_on & {"backward_message"} or rule.has_local_losses else set())
    assert ("output error" in used) == ("output_error" in rule.depends_on)
    assert any(m.target == "message" for m in found.modules) == ("delayed_message" in rule.depends_on)
    reads = {what for b in found.blocks[:-1] for what in b.loss_reads} | {what for m in found.modules for what in m.reads}
    if rule.classifies:
        assert ("labels" in reads) == ("labels" in rule.depends_on)
        assert ("image" in reads) == ("image" in rule.depends_on)
    assert any(b.reads == "replay buffer" for b in found.blocks) == ("replay_buffer" in rule.depends_on)
    assert bool(found.windows) == rule.has_windows
    assert (
        any(b.feedback for b in found.blocks) or "output error" in used if rule.has_feedback else not any(b.feedback for b in found.blocks)
    )


@pytest.mark.parametrize("name", METHODS)
def test_every_trained_block_has_an_error_signal_and_no_other_has(name):
    for block in observed(name).blocks:
        assert block.trained == bool(block.error_signal)
        assert "loss" not in block.error_signal or block.loss


def test_backprop_sends_one_message_down_by_the_transposed_weights():
    blocks = observed("bp").blocks
    assert [b.error_signal for b in blocks] == [("message",)] * 3 + [("loss",)]
    assert [b.sends for b in blocks] == [0, 1, 1, 1]
    assert not observed("bp").modules


def test_synthesisers_give_the_error_signal_and_learn_from_the_message():
    for name, reads in {"dni": ("output",), "cdni": ("output", "labels")}.items():
        assert [(m.label, m.block, m.reads, m.gives, m.target) for m in observed(name).modules] == [
            ("synthesiser", k, reads, "error signal", "message") for k in range(3)
        ]
    inputs = [m for m in observed("dni-unlocked").modules if m.gives == "input"]
    assert [(m.block, m.reads, m.target) for m in inputs] == [(k, ("image",), "output") for k in range(3)]
    assert [b.reads for b in observed("dni-unlocked").blocks] == ["image", "module", "module", "module"]


def test_windows_are_those_of_the_losses():
    assert observed("dgl").windows == ()
    assert observed("chunked").windows == ((0, 1), (2, 3))
    assert observed("overlap").windows == ((0, 1), (1, 3))
    assert observed("overlap").blocks[1].error_signal == ("message", "loss")
    assert observed("loco").windows == ((0, 1), (1, 2))


def test_options_and_depth_count():
    mixed = rule_structure("dni", METHODS["dni"], {"bp_lambda": 0.5, "at": [2]})
    assert [b.error_signal for b in mixed.blocks] == [("message",), ("message", "module"), ("message",), ("loss",)]
    assert [m.block for m in mixed.modules] == [1]
    assert [b.name for b in rule_structure("bp", METHODS["bp"], depth=1).blocks] == ["block1", "top"]


def test_a_rule_in_a_users_file(tmp_path):
    (tmp_path / "mine.py").write_text(
        textwrap.dedent(
            """
            from gradlens import Method, Signal
            from gradlens.gradients.method import top_signal
            class Scaled(Method):
                depends_on = frozenset({"input", "backward_message"})
                def signal(self, k, passes, received):
                    if k == self.num_blocks - 1:
                        return top_signal(self.loss, passes[k])
                    return Signal(3 * received[0], (2 * received[0],))
            """
        ),
        encoding="utf-8",
    )
    found = rule_structure("scaled", rule_in(tmp_path / "mine.py", "Scaled"))
    assert [b.error_signal for b in found.blocks] == [("message",)] * 3 + [("loss",)]
    assert not any(b.feedback for b in found.blocks)
