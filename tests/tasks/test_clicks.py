"""The click-through task: its score against the definition, runs from the command line, and what it refuses in one sentence."""

import json
import math
import random
from pathlib import Path

import pytest
import torch
import toy_tasks

from gradlens.methods import METHODS
from gradlens.runtime.errors import InputError
from gradlens.tasks.registry import TASKS
from gradlens.training.build import load_model_and_method
from gradlens.training.config import make_config
from gradlens.training.config_file import read_config_file
from gradlens.training.context import RunContext, load_data
from gradlens.training.loop import make_update
from gradlens.training.runs.build_state import build_state
from gradlens.training.runs.train_run import train_run

TASK = TASKS["clicks"]
SMALL = {"task": "clicks", "width": 8, "depth": 1, "embedding": 4, "batch_size": 32, "epochs": 2, "lr": 0.01, "record_every": 0}


def config(method="bp", **more):
    columns = {**toy_tasks.CLICK_COLUMNS, **more.pop("task_options", {})}
    return make_config(method=method, data=str(toy_tasks.click_file()), task_options=columns, **{**SMALL, "interactions": 2, **more})


def slowly(scores, labels):
    """AUC by its definition: over all pairs of a clicked row and another one."""
    clicked = [s for s, y in zip(scores, labels, strict=True) if y]
    others = [s for s, y in zip(scores, labels, strict=True) if not y]
    return sum((a > b) + 0.5 * (a == b) for a in clicked for b in others) / (len(clicked) * len(others))


def test_the_auc_is_its_definition_over_all_pairs_and_batches():
    draw = random.Random(3)
    scores = [draw.choice([-1.5, 0.0, 0.25, 2.0, draw.random()]) for _ in range(60)]
    labels = [draw.randint(0, 1) for _ in range(60)]
    z, y = torch.tensor(scores, dtype=torch.float64)[:, None], torch.tensor(labels)
    collected = torch.cat([TASK.collect(z[a:b], y[a:b]) for a, b in ((0, 7), (7, 8), (8, 60))])
    assert TASK.score(collected) == pytest.approx(slowly(scores, labels), rel=1e-12)
    assert math.isnan(TASK.score(TASK.collect(z, torch.zeros(60))))
    assert math.isnan(TASK.score(TASK.collect(z * math.nan, y)))
    hits, of = TASK.hits(z, y)
    assert (int(hits), int(of)) == (sum((s > 0) == bool(v) for s, v in zip(scores, labels, strict=True)), 60)


def test_a_run_scores_test_and_validation_rows(tmp_path):
    run = train_run(config(), RunContext(out=tmp_path))
    data = load_data(run.config, RunContext())
    model, method = load_model_and_method(run, data.shape, len(data.classes), torch.device("cpu"))
    last = {m.split: m for m in run.metrics if m.epoch == 2}
    for split, part in (("test", data.test), ("validation", data.selection)):
        with torch.no_grad():
            z = method.predict(list(model), part.x.long())[:, 0]
        assert last[split].score == pytest.approx(slowly(z.tolist(), part.y.tolist()), rel=1e-6)
        p = z.double().sigmoid()
        assert last[split].loss == pytest.approx(float(-(part.y * p.log() + (1 - part.y) * (1 - p).log()).mean()), rel=1e-5)
    assert math.isnan(last["train"].score)
    assert {m.score_name for m in run.metrics} == {"auc"}
    stored = json.loads((run.path / "config.json").read_text())["config"]
    assert (stored["loss"], stored["model"], stored["clip"]) == ("bce", "deep-cross", 100.0)


def test_limits_choose_rows_and_keep_the_validation_part():
    whole, some = load_data(config(), RunContext()), load_data(config(limit=20, limit_test=5), RunContext())
    assert (len(some.train), len(some.test), len(some.selection)) == (20, 5, len(whole.selection))
    assert (some.shape, whole.shape) == (whole.shape, tuple(whole.inputs))
    assert len(load_data(config(task_options={"rows": 60}), RunContext()).train) == 48


def test_the_command_line_reads_declared_columns(tmp_path, program):
    words = ["train", "dfa", "--task", "clicks", "--data", toy_tasks.click_file(), "--out", tmp_path, "--width", "8", "--epochs", "1"]
    words += ["--batch-size", "32", "--early-stopping", "2", "--set", "clicks.label=click", "--set", "clicks.numeric=age"]
    status, out, err = program(*words, "--set", "clicks.categorical=work,place")
    assert status == 0, err
    assert "AUC" in out or "auc" in out
    status, out, _ = program("list", "tasks", "clicks")
    assert status == 0
    assert "positive" in out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--set", "clicks.label=clicked"], "unknown column of"),
        (["--set", "clicks.numeric=work"], "line 2: work is 'w"),
        (["--set", "clicks.colour=red"], "option of task clicks: colour"),
        (["--loss", "ce"], "unknown loss of --task clicks 'ce'"),
        (["--model", "mlp"], "--model mlp reads images"),
        (["--augment"], "--augment has no meaning for --task clicks"),
        (["--data", "ad-logs"], "unknown log 'ad-logs'; nearest: ad-log"),
        (["--data", "none.csv"], "none.csv does not exist: set --data to a csv file with named columns, or to one of Criteo's format"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(flags, said, tmp_path, program):
    words = ["train", "bp", "--task", "clicks", "--data", toy_tasks.click_file(), "--out", tmp_path, "--epochs", "1", "--quiet"]
    words += [word for name in ("label=click", "numeric=age") for word in ("--set", f"clicks.{name}")]
    status, out, err = program(*words, *flags)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert said in err


@pytest.mark.parametrize("method", [name for name, rule in METHODS.items() if rule.images_only])
def test_rules_of_images_are_refused_with_the_reason(method):
    with pytest.raises(InputError, match=f"{method} is a rule of the image task and cannot be used with --task clicks: "):
        config(method)


# ------------------------------------------------------------------------------------------------------------ the papers

CONFIGS = sorted((Path(__file__).parents[2] / "analyses" / "configs").glob("dfa-clicks-*.json"))


def test_configs_of_the_papers_have_their_numbers():
    assert len(CONFIGS) == 12
    rates = {path.stem.removeprefix("dfa-clicks-"): make_config(**read_config_file(path)).optimizer.lr for path in CONFIGS}
    assert rates == {
        "deepfm-bp": 3e-4, "deepfm-dfa": 5e-5, "deepfm-shallow": 1e-4, "deep-cross-bp": 2e-4, "deep-cross-dfa": 5e-5,
        "deep-cross-shallow": 1e-3, "autoint-bp": 1e-4, "autoint-dfa": 5e-5, "autoint-shallow": 4e-4, "afn-bp": 4e-4, "afn-dfa": 3e-4,
        "afn-shallow": 4e-4,
    }  # fmt: skip
    for path in CONFIGS:
        c = make_config(**read_config_file(path))
        assert (c.early_stopping, c.epochs) in ((3, 15), (5, 30))
        assert c.options.get("embedding") == ("fixed" if path.stem == "dfa-clicks-afn-dfa" else c.options.get("embedding"))


def criteo(path):
    """Rows in Criteo's format, with empty fields; every value occurs often enough."""
    draw = random.Random(0)
    rows = (
        [
            draw.choice("01"),
            *(draw.choice(["", "0", "2", "17", "400"]) for _ in range(13)),
            *(draw.choice(["", "05db9164", "68fd1e64"]) for _ in range(26)),
        ]
        for _ in range(400)
    )
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_papers_networks_take_two_steps(path, tmp_path):
    c = make_config(**{**read_config_file(path), "data": str(criteo(tmp_path / "train.txt")), "batch_size": 128, "record_every": 1})
    state = build_state(c, load_data(c, RunContext()), torch.device("cpu"))
    before = {name: p.detach().clone() for name, p in state.network.model.named_parameters()}
    losses = [float(make_update(state, step)[0].loss) for step in range(2)]
    assert all(map(math.isfinite, losses))
    moved = {name for name, p in state.network.model.named_parameters() if not torch.equal(p, before[name])}
    assert "top.out.weight" in moved
    assert ("embedding.table.weight" in moved) is (
        path.stem not in {"dfa-clicks-afn-dfa", *(f"dfa-clicks-{n}-shallow" for n in ("deep-cross", "autoint", "afn"))}
    )
    assert any(name.startswith("hidden1") for name in moved) is (c.method != "shallow")
