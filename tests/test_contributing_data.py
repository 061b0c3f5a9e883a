"""The data set of CONTRIBUTING.md is whole, and is told in one file: nothing but the text of ``data/datasets.py`` changes here."""

import re
from pathlib import Path

import pytest
import torch
from worked_examples import with_data_set

from gradlens.cli.listing import LISTS
from gradlens.data import datasets
from gradlens.training import context
from gradlens.training.config import make_config
from gradlens.training.context import RunContext, shape_and_classes
from gradlens.training.runs.train_run import train_run


@pytest.fixture
def name(monkeypatch):
    """The example's name, in the registry of a ``datasets.py`` with its function and its entry in it."""
    edited = with_data_set(Path(datasets.__file__).read_text())
    scope = {"__name__": "gradlens.data.edited"}
    exec(compile(edited, "datasets.py", "exec", dont_inherit=True), scope)
    (new,) = set(scope["DATASETS"]) - set(datasets.DATASETS)
    monkeypatch.setitem(datasets.DATASETS, new, scope["DATASETS"][new])
    context.clear_data_cache()
    torch.set_num_threads(1)
    yield new
    context.clear_data_cache()


def test_the_data_set_of_the_example_is_what_its_entry_says(name):
    data, again = datasets.load(name), datasets.load(name)
    assert data.fingerprint() == again.fingerprint()
    assert (data.shape, len(data.classes)) == datasets.DATASETS[name][1:3] == shape_and_classes(make_config(data=name), RunContext())
    assert {len(data.train), len(data.test)} == {int(n) for n in re.findall(r"\d{3}", datasets.DATASETS[name].sentence)}


def test_rules_train_on_the_example_and_it_is_listed(name, tmp_path):
    small = {"model": "mlp", "width": 16, "epochs": 4, "batch_size": 50, "lr": 0.01, "record_every": 4}
    run = train_run(make_config(data=name, **small), RunContext(out=tmp_path))
    assert run.path.name.startswith(f"bp-{name}-mlp-s0-")
    assert run.summary["test"]["best_accuracy"] > 0.9
    assert dict(LISTS["data"]())[name] == datasets.DATASETS[name].sentence
