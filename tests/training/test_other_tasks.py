"""Commands, users' own networks and users' own rules on language and graphs: they work, or are refused in one sentence."""

import csv
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from gradlens.gradients.method import Method, Signal, top_signal
from gradlens.runtime.rng import seeded
from gradlens.runtime.text_files import read_json
from gradlens.tasks.registry import TASKS
from gradlens.training.checks.method_checks import run_method_checks
from gradlens.training.checks.trial import networks_of

PAGE = Path(__file__).parents[2] / "docs" / "extending" / "network-and-data.md"
TEXT = "the cat sat on the mat, the rat ran at the cat; " * 12
OF_TASK = {
    "language": "--data text.txt --set language.length=8 --width 8 --depth 2 --batch-size 16 --epochs 2 --record-every 1",
    "graphs": "--data karate --depth 2 --epochs 2 --record-every 1",
    "links": "--data karate --depth 2 --epochs 2 --record-every 1",
    "clicks": "--width 8 --depth 2 --limit 600 --limit-test 300 --epochs 2 --record-every 1",
    "pictures": "--width 8 --set pictures.shrink=20 --epochs 2 --record-every 1",
    "views": "--width 8 --set views.samples=4 --steps 4 --epochs 2 --record-every 1",
}
UPDATE = {
    "language": "--data text.txt --set language.length=8 --width 8 --depth 2 --batch-size 16",
    "graphs": "--data karate --depth 2",
    "links": "--data karate --depth 2",
    "clicks": "--width 8 --depth 2 --batch-size 64",
    "pictures": "--width 8 --batch-size 64",
    "views": "--width 8 --set views.samples=4 --batch-size 16",
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    Path("text.txt").write_text(TEXT, encoding="utf-8")


def of_page(name):
    """A file of the page, saved."""
    pattern = rf"<!-- example: tests/training/test_other_tasks.py trains this as {name} -->\n```python\n(.*?)```"
    (code,) = re.findall(pattern, PAGE.read_text(encoding="utf-8"), re.S)
    Path(name).write_text(code, encoding="utf-8")


@pytest.mark.parametrize(("task", "name"), [("language", "recurrent.py"), ("graphs", "means.py")])
def test_the_networks_of_the_page_are_trained(task, name, program):
    of_page(name)
    flags = OF_TASK[task].replace("--depth 2", "").split()
    status, out, err = program("train", "dgl", "--task", task, "--model", f"{name}:build", *flags, "--quiet")
    assert (status, err) == (0, "")
    assert f"{TASKS[task].item.split()[-1]}s/s" in out


NETWORKS = """
from torch import nn

def pooled(spec):
    return [nn.Embedding(spec.classes, 4), nn.Sequential(nn.Flatten(), nn.Linear(4 * spec.shape[0], spec.classes))]

def of_images(spec):
    return [nn.Sequential(nn.Flatten(), nn.Linear(64, 8)), nn.Linear(8, spec.classes)]

def narrow(spec):
    return [nn.Linear(spec.shape[0], 4), nn.Linear(4, spec.classes + 1)]

def normalised(spec):
    return [nn.Sequential(nn.Linear(spec.shape[0], 4), nn.BatchNorm1d(4)), nn.Linear(4, spec.classes)]
"""


@pytest.mark.parametrize(
    ("task", "name", "words"),
    [
        ("language", "pooled", r"its top gives 13 for each sequence of 8 tokens; wanted 8x13, one number a class"),
        ("language", "of_images", "its network does not take sequences of 8: RuntimeError"),
        ("graphs", "narrow", "its top gives 3 for each node; wanted 2, one number a class"),
        ("graphs", "of_images", "its network does not take nodes of 34: RuntimeError"),
    ],
)
def test_a_network_that_does_not_fit_a_task_is_refused_in_a_sentence(task, name, words, program):
    Path("nets.py").write_text(NETWORKS, encoding="utf-8")
    flags = OF_TASK[task].replace("--depth 2", "").split()
    status, out, err = program("train", "bp", "--task", task, "--model", f"nets.py:{name}", *flags)
    assert (status, out) == (2, "")
    assert words in err
    assert not Path("runs").exists()


def test_batch_normalisation_over_nodes_is_no_obstacle(program):
    Path("nets.py").write_text(NETWORKS, encoding="utf-8")
    status, _, err = program(
        "train", "bp", "--task", "graphs", "--data", "karate", "--model", "nets.py:normalised", "--epochs", "1", "--quiet"
    )
    assert (status, err) == (0, "")


class PerItem(Method):
    """A head of its own on each block, which acts on the last dimension: of any task."""

    depends_on = frozenset({"input", "labels"})

    def __init__(self, net, options):
        super().__init__(net, options)
        with seeded(net.seed, "heads"):
            self.heads = nn.ModuleList(nn.Linear(s[-1], net.classes) for s in net.shapes[:-1])

    def signal(self, k, passes, received):
        if k == self.num_blocks - 1:
            return top_signal(self.loss, passes[k], send=False)
        loss = self.loss(self.heads[k](passes[k].z), passes[k].y)
        params = dict(self.heads[k].named_parameters(prefix=f"heads.{k}"))
        delta, *grads = torch.autograd.grad(loss, [passes[k].z, *params.values()])
        return Signal(delta, aux_grads=dict(zip(params, grads, strict=True)), loss=loss.detach())


@pytest.mark.parametrize("task", ["language", "graphs"])
def test_a_rule_with_heads_per_item_passes_every_check(task):
    found = list(run_method_checks(PerItem, PerItem.Options(), networks=networks_of(task)[:1]))
    assert [(f.check, f.message) for f in found if f.failed] == []


# ----------------------------------------------------------------------------------------------------- every command, every task

NO_MEANING = {
    "probe": "reads images and labels",
    "representations": "reads images and labels",
    "filters": "reads images and labels",
    "inpaint": "reads images and labels",
}


@pytest.mark.slow
@pytest.mark.parametrize("task", OF_TASK)
def test_every_command_works_on_every_task_or_says_in_one_sentence_why_not(task, program):
    flags, update = ["--task", task, *OF_TASK[task].split()], ["--task", task, *UPDATE[task].split()]
    items, examples = f"{TASKS[task].item}s", f"{TASKS[task].example}s"
    more = "--diagnose-every 1 --keep-checkpoints 1 --out c --quiet"
    status, out, err = program("compare-gradients", "bp", "dgl", *flags, *more.split())
    assert status == 0, err
    (first, *_) = sorted(Path("c/runs").iterdir())
    texts = {}
    for words in (
        "show c", f"show {first}", "report c", "figures c --overwrite", "doctor c", "export c --out table",
        "measure c --quantity noise_ceiling",
    ):  # fmt: skip
        command = words.split()[0]
        status, texts[command], err = program(*words.split())
        assert status == 0 or (command, status) == ("doctor", 1), (words, err)
    assert items in texts["show"]
    page = Path("c/report.html").read_text(encoding="utf-8")
    assert f"{items}/s" in page
    assert "images/s" not in page
    for words in ("bench bp dgl --rounds 1", "timeline bp dgl --rounds 1 --out t"):
        status, out, err = program(*words.split(), *update, "--quiet")
        assert status == 0, (words, err)
        assert f"{examples}/s" in out
        assert "images" not in out
    for command, why in NO_MEANING.items():
        status, out, err = program(command, first)
        assert (status, out) == (2, ""), command
        assert why in err
        assert f"--task {task}" in err
    status, out, err = program("memorize", "bp", *flags)
    assert (status, out) == (2, "")
    assert err == f"gradlens: `gradlens memorize` trains on images with random labels: it has no meaning for --task {task}\n"


STUDY = """
methods = ["bp", "dgl"]
seeds = [0]

[settings]
epochs = 1
threads = 1
depth = 2
"""


@pytest.mark.slow
@pytest.mark.parametrize("task", ["language", "graphs"])
def test_a_study_of_every_task_is_trained(task, program):
    more = {
        "language": 'task = "language"\ndata = "text.txt"\nwidth = 8\nset = ["language.length=8"]\n',
        "graphs": 'task = "graphs"\ndata = "karate"\n',
    }
    Path("study.toml").write_text(STUDY + more[task], encoding="utf-8")
    status, out, err = program("sweep", "study.toml", "--out", "s", "--quiet")
    assert status == 0, err
    with Path("s/summary.csv").open(encoding="utf-8") as file:
        means = {row["quantity"]: float(row["mean"]) for row in csv.DictReader(file) if row["method"] == "bp"}
    ends = read_json(next(Path("s").rglob("bp*/summary.json")))["test"]
    kind = "accuracy" if TASKS[task].score_name == "accuracy" else "score"
    for which in ("best", "final"):
        assert means[f"test {which}_{kind}"] == pytest.approx(ends[f"{which}_{kind}"])
    assert "bp" in out


@pytest.mark.slow
def test_a_graph_is_not_cut_into_micro_batches(program):
    status, out, err = program("timeline", "bp", "--task", "graphs", "--micro-batches", "2")
    assert (status, out) == (2, "")
    assert err.startswith("gradlens: --micro-batches 2 with --task graphs: a graph is one batch")
