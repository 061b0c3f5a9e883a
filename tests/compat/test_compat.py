"""What version 0.1.0 computed, called and left behind is what this one computes, calls and goes on with.

``saved.py`` says how the files beside this one were made, ``compare_trees.py`` compares two trees on one machine to the bit.
"""

import csv
import json
import math
import shutil
import sys
from pathlib import Path

import pytest
import torch
from compare_trees import RULES, differences
from pydantic import Field
from saved import HALF, HALVES, TABLES, long_run, short_run

from gradlens.methods import METHODS, SHIPPED
from gradlens.models.zoo import MODELS
from gradlens.training.config import Config, make_config
from gradlens.training.config_fields import later_defaults, settings_of
from gradlens.training.run_directory import load_run

HERE = Path(__file__).resolve().parent


def table(path):
    """{what a row is about: its number}: split, epoch, step and column, or step, layer, kind, quantity and reference."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if "quantity" in rows[0]:
        return {tuple(v for k, v in row.items() if k != "value"): row["value"] for row in rows}
    about = ("split", "epoch", "step")
    return {(*(row[k] for k in about), name): value for row in rows for name, value in row.items() if name not in about}


LATER_COLUMNS = ("score", "score_name")
RELATIVE = 1e-4
# NT-Xent divides similarities of unit vectors by a small temperature: what CPUs round differently grows by as much
LOOSE = dict.fromkeys(("simclr", "simclr-local", "loco"), 10)
ROUNDING = 1e-5  # a gradient of such a norm is zero but for rounding (a bias before BatchNorm): its direction means nothing
LOSSES = 3e-6  # a few of the last digits of a float32 loss; differences of losses are no more exact than the losses
NORMS = ("norm", "true_norm")
CHANGES = ("measured_change", "predicted_change", "information_bound")
ABSOLUTE = {
    "accuracy": 1.01 / 64, "best": 1.01 / 64,  # of 64 test images one may lie between two classes
    "angle": 1e-2,  # degrees: near 0 and 180 the arc cosine makes of a rounded cosine much more
    **dict.fromkeys(NORMS, ROUNDING), **dict.fromkeys(CHANGES, LOSSES),
}  # fmt: skip


def only_rounding(rows):
    """(step, layer, kind) of the gradients that are nothing but rounding."""
    return {about[:3] for about, value in rows.items() if len(about) == 5 and about[3] in NORMS and 0 < float(value) < ROUNDING}


def means_nothing(about, rounding):
    """Whether a row tells of the direction of such a gradient, or counts its signs among those of its block."""
    if about[3] == "sign_agreement" and about[2] == "parameters":
        return any(step == about[0] and layer.startswith(f"{about[1]}.") for step, layer, _ in rounding)
    return about[3] not in NORMS and about[:3] in rounding


def floor_of(about, wanted):
    """The absolute difference that is allowed. What is a share or a cosine has 1 as its scale."""
    name = about[3]
    if name == "descent_ratio":  # a measured change over a predicted one
        return LOSSES / abs(float(wanted[(*about[:3], "predicted_change", about[4])])) + RELATIVE
    return ABSOLUTE.get(name, RELATIVE if len(about) == 5 else 0.0)


def apart(wanted, got, times=1):
    """The rows of a table that are not what they were."""
    assert list(wanted) == list(got)
    rounding = only_rounding(wanted) | only_rounding(got)
    found = []
    for about, value in wanted.items():
        x, y = float(value), float(got[about])
        if math.isnan(x) and math.isnan(y):
            continue
        near = math.isclose(x, y, rel_tol=times * RELATIVE, abs_tol=times * floor_of(about, wanted))
        if not near and not (len(about) == 5 and means_nothing(about, rounding)):
            found.append((about, x, y))
    return found


def test_every_rule_is_here():
    assert set(RULES) == set(SHIPPED)


@pytest.mark.parametrize("rule", RULES)
def test_tables(rule, tmp_path):
    run = short_run(rule, tmp_path)
    for name in TABLES:
        got = {about: value for about, value in table(run / name).items() if about[-1] not in LATER_COLUMNS}
        assert apart(table(HERE / "tables" / rule / name), got, LOOSE.get(rule, 1)) == []


@pytest.mark.parametrize("rule", HALVES)
def test_an_interrupted_run_goes_on(rule, tmp_path):
    shutil.copytree(HERE / "interrupted" / rule, tmp_path / rule)
    half = load_run(tmp_path / rule)
    assert not half.finished
    assert half.checkpoint()["step"] == HALF
    before = (half.path / "gradients.csv").read_text()
    long_run(rule, tmp_path, resume=True)
    run = load_run(half.path)
    assert run.finished
    assert run.config == half.config
    assert (run.path / "gradients.csv").read_text().startswith(before)
    for name in TABLES:
        wanted, got = table(HERE / "ends" / rule / name), table(run.path / name)
        assert apart(wanted, {about: value for about, value in got.items() if about in wanted}) == []


# ------------------------------------------------------------------------------------------------------------- run names


@pytest.fixture
def registries():
    """Rules and networks that a config makes known are forgotten after the test."""
    before = [(registry, dict(registry)) for registry in (METHODS, MODELS)]
    yield
    for registry, content in before:
        registry.clear()
        registry.update(content)


@pytest.mark.usefixtures("registries")
def test_run_names():
    pinned = json.loads((HERE / "run_names.json").read_text())
    assert len(pinned) >= 30
    assert {make_config(**one["settings"]).run_name(): one["settings"] for one in pinned} == {
        one["name"]: one["settings"] for one in pinned
    }


@pytest.mark.parametrize("rule", HALVES)
def test_a_stored_config_is_the_one_it_was_made_from(rule):
    stored = json.loads((HERE / "interrupted" / rule / "config.json").read_text())["config"]
    config = make_config(**stored)
    later = {name: known.default for name, known in settings_of(Config).items() if known.since}
    fields = config.rule.Options.model_fields
    stored["options"] |= {name: fields[name].default for name in later_defaults(config.rule.Options, config.options)}
    assert json.loads(json.dumps(config.as_dict())) == {**stored, **later}
    assert [name for name in config.as_dict() if name not in later] == list(stored)


# -------------------------------------------------------------------------------------------------------- later settings

SINCE = {"since": "9.9"}


class Later(Config, frozen=True):
    """A config with a setting more, said to be later than 0.1.0."""

    added: int = Field(3, json_schema_extra=SINCE)
    listed: list[int] = Field(default_factory=list, json_schema_extra=SINCE)


class Unmarked(Config, frozen=True):
    """A config with a setting more, of which nothing is said."""

    added: int = 3


def test_a_later_setting_enters_the_digest_where_it_is_not_its_default():
    for settings in ({}, {"method": "dgl", "lr": 0.1}, {"optimizer": "sgd", "momentum": 0.5}):
        name = make_config(**settings).run_name()
        assert Later(**settings).run_name() == Later(**settings, added=3, listed=[]).run_name() == name
        others = {Later(**settings, **more).run_name() for more in ({"added": 4}, {"listed": [1]}, {"added": 4, "listed": [1]})}
        assert len(others | {name}) == 4
        assert Unmarked(**settings).run_name() != name


@pytest.mark.usefixtures("registries")
def test_a_rules_later_option_enters_the_digest_where_it_is_not_its_default():
    rule = METHODS["dgl"]
    before = [make_config(method="dgl").run_name(), make_config(method="dgl", options={"layers": 2}).run_name()]

    class Options(rule.Options, frozen=True):
        added: float = Field(0.5, json_schema_extra=SINCE)

    METHODS["dgl"] = type("DGL", (rule,), {"Options": Options})
    assert [make_config(method="dgl").run_name(), make_config(method="dgl", options={"layers": 2, "added": 0.5}).run_name()] == before
    assert make_config(method="dgl", options={"added": 0.6}).run_name() not in before
    assert make_config(method="dgl").options["added"] == 0.5


def test_a_run_from_before_a_later_setting_goes_on(tmp_path, monkeypatch):
    stored = json.loads((HERE / "interrupted" / "bp" / "config.json").read_text())["config"]
    assert Later(**stored) == Later(**make_config(**stored).as_dict())
    monkeypatch.setattr(sys.modules[Config.__module__], "Config", Later)
    shutil.copytree(HERE / "interrupted" / "bp", tmp_path / "bp")
    run = load_run(long_run("bp", tmp_path, resume=True))
    assert run.finished
    assert run.config.added == 3


# ------------------------------------------------------------------------------------------- the comparisons can also fail


def test_tables_that_are_apart():
    tables = HERE / "tables" / "dgl"
    wanted = table(tables / "gradients.csv")
    rounding = [about for about, v in wanted.items() if about[3] == "true_norm" and 0 < float(v) < ROUNDING]
    bias = (*rounding[0][:3], "cosine", rounding[0][4])
    assert apart(wanted, {**wanted, bias: "0.123", rounding[0]: "1e-8"}) == []
    for about in wanted:
        if about[3] in ("cosine", "norm", "true_norm") and about[2] == "weight":
            assert len(apart(wanted, {**wanted, about: str(float(wanted[about]) * 1.001 + 1e-3)})) == 1
    assert apart(wanted, {**wanted, bias: "nan"}) == []
    losses = table(tables / "metrics.csv")
    about = next(about for about in losses if about[-1] == "loss")
    assert [found[0] for found in apart(losses, {**losses, about: str(float(losses[about]) * 1.0002)})] == [about]


def flipped(path):
    """Change the last bit of the first weight in a checkpoint."""
    state = torch.load(path, weights_only=True)
    first = next(iter(state["model"].values()))
    first.view(torch.int32).view(-1)[0] ^= 1
    torch.save(state, path)


CHANGES_OF_A_RUN = {
    "a bit of a weight": (lambda run: flipped(run / "checkpoint.pt"), "checkpoint.pt differs in /model/block1.linear.weight"),
    "a digit": (lambda run: edited(run / "gradients.csv", "1.0,", "1.1,"), "gradients.csv differs in"),
    "a setting": (lambda run: edited(run / "config.json", '"lr": 0.003', '"lr": 0.004'), "config.json differs in /config/lr"),
    "a setting's name": (lambda run: edited(run / "config.json", '"lr":', '"rate":'), "config.json has other entries"),
    "a file": (lambda run: (run / "metrics.csv").unlink(), "metrics.csv is only before"),
    "a run name": (lambda run: run.rename(run.with_name("other")), "is only after"),
}


def edited(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_runs_that_are_the_same(tmp_path):
    for tree in ("before", "after"):
        shutil.copytree(HERE / "interrupted" / "bp", tmp_path / tree / "bp")
    edited(tmp_path / "after" / "bp" / "config.json", '"gradlens": "0.1.0"', '"gradlens": "0.2.0"')
    (tmp_path / "after" / "bp" / "timing.csv").write_text("other times")
    assert differences(tmp_path / "before", tmp_path / "after") == ([], 4)


@pytest.mark.parametrize("change", CHANGES_OF_A_RUN)
def test_runs_that_differ(change, tmp_path):
    for tree in ("before", "after"):
        shutil.copytree(HERE / "interrupted" / "bp", tmp_path / tree / "bp")
    make_it, said = CHANGES_OF_A_RUN[change]
    make_it(tmp_path / "after" / "bp")
    found, _ = differences(tmp_path / "before", tmp_path / "after")
    assert found
    assert said in "; ".join(found)
