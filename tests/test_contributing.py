"""The worked examples of CONTRIBUTING.md and docs/extending/rule.md: whole rules, which train and pass every check, and a whole setting."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from worked_examples import add_data_set, add_rule, add_setting, code_in, copy_of_package, touched

from gradlens import check_method
from gradlens.gradients.method import Method
from gradlens.methods import METHODS
from gradlens.training.config import make_config
from gradlens.training.context import RunContext
from gradlens.training.runs.train_run import train_run

ROOT = Path(__file__).parents[1]
MARK = "example: tests/test_contributing.py runs this"


def example(page: str = "CONTRIBUTING.md") -> type[Method]:
    scope: dict[str, object] = {"__name__": "example"}
    exec(*code_in(page, MARK), scope)
    (rule,) = [v for v in scope.values() if isinstance(v, type) and issubclass(v, Method) and v is not Method]
    return rule


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.setitem(METHODS, "sign-bp", example())
    torch.set_num_threads(1)
    return train_run(make_config(method="sign-bp", width=16, epochs=4, record_every=4), RunContext(out=tmp_path))


def test_the_example_trains_and_learns(run):
    assert run.finished
    assert run.summary["test"]["best_accuracy"] > 0.5


def test_the_example_is_measured_against_the_truth(run):
    cosine = {r.layer: r.value for r in run.gradients if (r.step, r.kind, r.quantity) == (0, "weight", "cosine")}
    assert cosine["top.out"] == pytest.approx(1, abs=1e-12)
    assert 0 < cosine["block1.conv"] < 0.999  # signs only: near the truth, not the truth


# ------------------------------------------------------------------------------------------- a rule is a file and its registry


@pytest.mark.slow
def test_a_rule_of_the_package_touches_two_files(tmp_path):
    """Copied into the package as the page says, the example is known to the registry, the checks and the figures."""
    add_rule(copy_of_package(tmp_path))
    code = (
        "import gradlens; from gradlens.reporting.style import styles; print(gradlens.__file__);"
        "print([r.check for r in gradlens.check_method(gradlens.METHODS['sign-bp'], networks=['mlp']) if r.failed]);"
        "print(len(set(styles([*gradlens.METHODS]).values())) == len(gradlens.METHODS), [*gradlens.METHODS][-1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == [str(tmp_path / "gradlens" / "__init__.py"), "[]", "True sign-bp"], done.stderr


TYPED = """
import contextlib, io, json, sys
from gradlens.cli.main import main

SMALL = "--model mlp --width 2 --limit 64 --batch-size 32 --epochs 0 --quiet --run-name".split()
said = {}
for name, words in {
    "typo": ["train", "sing-bp"],
    "methods": ["list", "methods"],
    "data": ["list", "data"],
    "rule": ["train", "sign-bp", *SMALL, "of-rule"],
    "set": ["train", "bp", "--data", "stripes", *SMALL, "of-set"],
}.items():
    sys.argv, out = ["gradlens", *words], io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), contextlib.suppress(SystemExit):
        main()
    said[name] = out.getvalue()
print(json.dumps(said))
"""


def test_the_rule_and_the_data_set_of_the_page_are_known_to_the_command_line_at_once(tmp_path):
    """Two files and one, and nothing is written from them: names are not refused by what was written before, and lists hold them."""
    package = copy_of_package(tmp_path)
    add_rule(package)
    add_data_set(package)
    assert touched(package) == {"methods/sign_bp.py", "methods/__init__.py", "data/datasets.py"}
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "200"}
    done = subprocess.run([sys.executable, "-c", TYPED], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    stored = {run: json.loads((tmp_path / "runs" / run / "config.json").read_text())["config"] for run in ("of-rule", "of-set")}
    assert (stored["of-rule"]["method"], stored["of-set"]["data"]) == ("sign-bp", "stripes"), said
    assert "sign-bp" in said["methods"]
    assert "8x8 grey stripes in noise" in said["data"]
    assert said["typo"].startswith("gradlens: unknown method 'sing-bp'; nearest: sign-bp, ")


# ------------------------------------------------------------------------------------------- a loss and a head of its own


def test_the_rule_with_heads_keeps_what_it_promises():
    rule = example("docs/extending/rule.md")
    asked = check_method(rule)
    assert {r.check for r in asked if not r.applicable} == {"labels"}  # it says that it reads them


def test_the_rule_with_heads_is_short_and_imports_from_one_door():
    lines = [line for line in code_in("docs/extending/rule.md", MARK)[0].splitlines() if line.strip()]
    imported = [line for line in lines if re.match(r"(from|import) ", line)]
    assert [line for line in imported if "gradlens" in line] == ["from gradlens import Method, Signal, seeded, top_signal"]
    assert len(lines) - len(imported) <= 15


def test_the_rule_with_heads_trains_every_block(monkeypatch, tmp_path):
    monkeypatch.setitem(METHODS, "probes", example("docs/extending/rule.md"))
    torch.set_num_threads(1)
    run = train_run(make_config(method="probes", width=8, epochs=1, batch_size=32, lr=0.01, record_every=20), RunContext(out=tmp_path))
    for block in ("block1", "block2", "block3", "top"):
        losses = [r.value for r in run.gradients if (r.layer, r.kind, r.quantity) == (block, "rule", "loss")]
        assert losses[-1] < losses[0] / 1.5, (block, losses)
    assert run.summary["test"]["best_accuracy"] > 0.5


# ---------------------------------------------------------------------------------------------------------------- a setting

ASK = """
import contextlib, io, json, sys
sys.path.insert(0, "tools")
import write_settings

for path, text in write_settings.texts().items():
    path.write_text(text, encoding="utf-8")
from gradlens.cli.main import main
from gradlens.runtime.errors import InputError
from gradlens.training.config import make_config

def program(*words):
    sys.argv, out = ["gradlens", *words], io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), contextlib.suppress(SystemExit):
        main()
    return out.getvalue()

def refused(**settings):
    try:
        make_config(**settings)
    except InputError as error:
        return str(error)

run = "train bp --gradient-noise 2 --model mlp --width 2 --limit 64 --batch-size 32 --epochs 0 --quiet --run-name one".split()
print(json.dumps({
    "help": " ".join(program("train", "--help").split()), "synonym": program("train", "bp", "--grad-noise", "1"), "run": program(*run),
    "refused": refused(gradient_noise=0), "wrong": program("train", "bp", "--gradient-noise", "much"),
    "names": [make_config(**more).run_name() for more in ({}, *({"gradient_noise": value} for value in (None, 2, 3)))],
    "read": make_config(gradient_noise=2).optimizer.gradient_noise, "order": list(make_config().as_dict()),
}))
"""


def test_a_setting_is_added_in_one_file(tmp_path):
    from gradlens.training.config import make_config

    package = copy_of_package(tmp_path)
    add_setting(package)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "200"}
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert re.search(r"--gradient-noise <?(float|FLOAT)>? add noise of this deviation to gradients \(default none\)", said["help"]), said[
        "help"
    ]
    assert "no such option --grad-noise; nearest: --gradient-noise (" in said["synonym"]
    assert said["refused"] == "--gradient-noise: input should be greater than 0, got 0"
    assert "--gradient-noise" in said["wrong"]
    assert json.loads((tmp_path / "runs" / "one" / "config.json").read_text())["config"]["gradient_noise"] == 2, said["run"]
    assert said["read"] == 2
    assert said["order"][said["order"].index("warmup") + 1] == "gradient_noise"
    plain, unsaid, two, three = said["names"]
    assert plain == unsaid == make_config().run_name()
    assert len({plain, two, three}) == 3
    assert touched(package) == {"training/setting_groups.py", "cli/settings.py"}
