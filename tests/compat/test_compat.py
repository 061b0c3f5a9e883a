"""What version 0.1.0 computed, called and left behind is what this one computes, calls and goes on with.

``saved.py`` says how the files beside this one were made, ``compare_trees.py`` compares two trees on one machine to the bit.
"""

import csv
import json
import math
import shutil
from pathlib import Path

import pytest
from compare_trees import RULES
from saved import HALF, HALVES, TABLES, long_run, short_run

from gradlens.config import make
from gradlens.methods import METHODS
from gradlens.models import MODELS
from gradlens.run import load

HERE = Path(__file__).resolve().parent


def table(path):
    """{what a row is about: its number}: split, epoch, step and column, or step, layer, kind, quantity and reference."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if "quantity" in rows[0]:
        return {tuple(v for k, v in row.items() if k != "value"): row["value"] for row in rows}
    about = ("split", "epoch", "step")
    return {(*(row[k] for k in about), name): value for row in rows for name, value in row.items() if name not in about}


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


def means_nothing(about, wanted, got):
    """Whether a row tells of a gradient that is nothing but rounding."""
    norms = [float(rows.get((*about[:3], name, about[4]), "1")) for rows in (wanted, got) for name in NORMS]
    return about[3] not in NORMS and any(0 < norm < ROUNDING for norm in norms)


def floor_of(about, wanted):
    """The absolute difference that is allowed. What is a share or a cosine has 1 as its scale."""
    name = about[3]
    if name == "descent_ratio":  # a measured change over a predicted one
        return LOSSES / abs(float(wanted[(*about[:3], "predicted_change", about[4])])) + RELATIVE
    return ABSOLUTE.get(name, RELATIVE if len(about) == 5 else 0.0)


def apart(wanted, got, times=1):
    """The rows of a table that are not what they were."""
    assert list(wanted) == list(got)
    found = []
    for about, value in wanted.items():
        x, y = float(value), float(got[about])
        if math.isnan(x) and math.isnan(y):
            continue
        near = math.isclose(x, y, rel_tol=times * RELATIVE, abs_tol=times * floor_of(about, wanted))
        if not near and not (len(about) == 5 and means_nothing(about, wanted, got)):
            found.append((about, x, y))
    return found


def test_every_rule_is_here():
    assert set(RULES) == set(METHODS)


@pytest.mark.parametrize("rule", RULES)
def test_tables(rule, tmp_path):
    run = short_run(rule, tmp_path)
    for name in TABLES:
        assert apart(table(HERE / "tables" / rule / name), table(run / name), LOOSE.get(rule, 1)) == []


@pytest.mark.parametrize("rule", HALVES)
def test_an_interrupted_run_goes_on(rule, tmp_path):
    shutil.copytree(HERE / "interrupted" / rule, tmp_path / rule)
    half = load(tmp_path / rule)
    assert not half.finished
    assert half.checkpoint()["step"] == HALF
    before = (half.path / "gradients.csv").read_text()
    long_run(rule, tmp_path, resume=True)
    run = load(half.path)
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
    assert {make(**one["settings"]).run_name(): one["settings"] for one in pinned} == {one["name"]: one["settings"] for one in pinned}


@pytest.mark.parametrize("rule", HALVES)
def test_a_stored_config_is_the_one_it_was_made_from(rule):
    stored = json.loads((HERE / "interrupted" / rule / "config.json").read_text())["config"]
    config = make(**stored)
    assert json.loads(config.model_dump_json()) == stored
    assert list(config.model_dump()) == list(stored)
