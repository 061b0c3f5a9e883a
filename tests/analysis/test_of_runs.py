"""The interface of the analyses: what their commands take, what is refused and when, and CONTRIBUTING's example as one more analysis."""

import dataclasses
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest
import shelf
import typer
from tiny_runs import tiny

from gradlens.analysis.information import STEPS
from gradlens.analysis.of_runs.interface import Analysis, Session, option
from gradlens.analysis.of_runs.options import FULL_PROBE, FULL_REPRESENTATIONS, ProbeOptions
from gradlens.analysis.of_runs.registry import ANALYSES
from gradlens.cli.analysis import add_command, learned
from gradlens.models.feature_pooling import BUDGET
from gradlens.reporting.analysis_report import AnalysisReport
from gradlens.reporting.gallery import draw_learned
from gradlens.reporting.html.page import page
from gradlens.reporting.registry import REPORTS
from gradlens.runtime.errors import InputError
from gradlens.training.context import RunContext
from gradlens.training.run_directory import load_result, load_run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def runs(tmp_path):
    """Copies of two runs of the shelf."""
    return [shelf.copied(shelf.trained(tiny(method)), tmp_path / "runs") for method in ("bp", "dgl")]


def flags(command):
    """The parameters of a command by name, as typer gives them to click."""
    return {p.name: p for p in typer.main.get_command(learned).commands[command].params}


# ---------------------------------------------------------------------------------------------------------- the registries


def test_every_analysis_has_a_command_and_a_report_of_its_name():
    commands = typer.main.get_command(learned).commands
    for name, analysis in ANALYSES.items():
        assert analysis.name == name
        assert commands[analysis.command].help == analysis.help
        assert REPORTS[name].figures is not None
    assert set(REPORTS) - set(ANALYSES) == {"online", "doctor"}  # stored by training and by a command of its own


@pytest.mark.parametrize("analysis", ANALYSES.values(), ids=lambda analysis: analysis.name)
def test_every_option_is_a_flag_with_its_default_and_help(analysis):
    taken = flags(analysis.command)
    fields = [field for field in dataclasses.fields(analysis.Options) if field.metadata]
    for field in fields:
        assert taken[field.name].help.startswith(field.metadata["help"])
        full = getattr(analysis.full, field.name, field.default)
        if full != field.default:
            assert taken[field.name].help.endswith(f"(default {field.default}, with --full {full})")
        assert taken[field.name].default == (None if field.default == () or full != field.default else field.default)
    assert {"filters": 1, "inpainting": 1, "memorization": 0, "probe": 8, "rendering": 1, "representations": 5}[analysis.name] == len(
        fields
    )


def test_flags_by_the_kind_of_the_field():
    probe = flags("probe")
    assert (probe["controls"].opts, probe["controls"].secondary_opts) == (["--controls"], ["--no-controls"])
    assert (probe["over_time"].opts, probe["over_time"].secondary_opts) == (["--over-time"], [])
    assert (probe["blocks"].opts, probe["blocks"].multiple) == (["--block"], True)
    assert flags("representations")["steps"].opts == ["--information-steps"]


def test_the_least_value_of_a_flag(program, tmp_path):
    status, _, err = program("probe", tmp_path, "--separability", "-1")  # no run directory: the flag is looked at before
    assert status == 2
    assert "--separability" in err


def test_defaults_that_are_written_twice_are_the_same():
    assert FULL_PROBE.features == BUDGET  # the modules that hold these import torch
    assert FULL_REPRESENTATIONS.steps == STEPS


def test_the_help_of_no_analysis_imports_torch():
    code = (  # typer itself imports pydantic
        "import sys\nfrom gradlens.cli.main import app\n"
        f"for name in {[analysis.command for analysis in ANALYSES.values()]!r}:\n"
        "    app([name, '--help'], standalone_mode=False)\n"
        "assert not {'torch', 'numpy', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


# ---------------------------------------------------------------------------------------------------------- one session


class Steps(Analysis):
    """Tell how many updates a run has had."""

    name, command = "steps", "steps"
    measured: ClassVar[list[str]] = []  # names of runs, by every instance

    def requires(self, run):
        """Backpropagation."""
        return None if run.config.method == "bp" else f"{run.path} is not of bp"

    def measure(self, run, session, progress):
        """The number in the checkpoint."""
        self.measured.append(run.path.name)
        progress(1, 1, "counted")
        result = {"steps": session.shared.setdefault("steps", run.checkpoint()["step"])}
        return self.store(run, result)


@pytest.fixture
def steps(monkeypatch):
    monkeypatch.setattr(Steps, "measured", [])
    return Steps()


def test_all_runs_are_looked_at_before_one_is_measured(steps, runs):
    with pytest.raises(InputError, match=f"{runs[1].path} is not of bp"):
        steps.analyse(runs, RunContext())
    with pytest.raises(InputError, match="are the same run"):
        steps.analyse([runs[0], load_run(runs[0].path)], RunContext())
    with pytest.raises(InputError, match="no run was given to `gradlens steps`"):
        steps.analyse([], RunContext())
    assert steps.measured == []
    assert not (runs[0].path / "steps.json").exists()


def test_a_checkpoint_is_required_unless_given_otherwise(runs):
    (runs[1].path / "checkpoint.pt").unlink()
    assert [Analysis().requires(run) for run in runs] == [None, f"{runs[1].path} has no checkpoint.pt: the run saved none"]


def test_results_are_stored_and_progress_is_shown_under_the_runs_name(steps, runs):
    seen = []
    found = steps.analyse(runs[:1], RunContext(), watch=lambda name: lambda *said: seen.append((name, *said)))
    assert found == [{"steps": 24}]
    assert load_result(runs[0].path, "steps")["steps"] == 24
    assert seen == [(runs[0].path.name, 1, 1, "counted")]


def test_what_runs_have_in_common_is_shared_within_a_call_only(steps, runs, monkeypatch):
    monkeypatch.setattr(Steps, "requires", lambda self, run: None)
    (runs[1].path / "checkpoint.pt").unlink()
    with pytest.raises(InputError, match=r"no checkpoint\.pt"):
        steps.analyse(runs, RunContext())  # setdefault reads what it then does not need
    assert steps.measured == [run.path.name for run in runs]


def test_a_comparison_goes_with_the_first_result(steps, runs, monkeypatch):
    monkeypatch.setattr(Steps, "comparison", "beside", raising=False)
    monkeypatch.setattr(Steps, "requires", lambda self, run: None)
    monkeypatch.setattr(Steps, "compare", lambda self, runs, session: {"names": [run.path.name for run in runs]})
    first, second = steps.analyse(runs, RunContext())
    assert first["comparison"] == {"names": [run.path.name for run in runs]}
    assert "comparison" not in second


def test_an_option_is_a_field():
    @dataclasses.dataclass(frozen=True)
    class Options:
        several: tuple[str, ...] = option((), "names", "name")

    (field,) = dataclasses.fields(Options)
    assert Options() == Options(several=())
    assert dict(field.metadata) == {"help": "names", "flag": "name", "least": None}


# ------------------------------------------------------------------------------------------------- CONTRIBUTING's example


@pytest.fixture
def weight_norms(monkeypatch):
    """The example's two files as modules, and its lines in the registries."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    modules = {}
    for path, code in re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```", text, re.S):
        name = path.removesuffix(".py").replace("/", ".")
        modules[name] = ModuleType(name)
        monkeypatch.setitem(sys.modules, name, modules[name])
        exec(compile(code, path, "exec"), modules[name].__dict__)
    computing, showing = modules["gradlens.analysis.of_runs.weight_norms"], modules["gradlens.reporting.weight_norms"]
    assert "`WeightNorms(),` in `ANALYSES`" in text
    monkeypatch.setitem(ANALYSES, "weight_norms", computing.WeightNorms())
    (line,) = re.findall(r'^    "weight_norms": (AnalysisReport\(.*\)),$', text, re.M)
    monkeypatch.setitem(REPORTS, "weight_norms", eval(line, {"AnalysisReport": AnalysisReport, "weight_norms": showing}))
    monkeypatch.setattr(learned, "registered_commands", [*learned.registered_commands])
    add_command(ANALYSES["weight_norms"])


def test_the_examples_command_measures_prints_stores_and_draws(weight_norms, runs, program, tmp_path):
    status, out, err = program("weight-norms", *(run.path for run in runs), "--power", 1, "--out", tmp_path / "f", "--quiet")
    assert (status, err) == (0, "")
    weight = runs[1].checkpoint()["model"]["block1.conv.weight"]
    norms = load_result(runs[1].path, "weight_norms")["norms"]
    assert norms["block1.conv.weight"] == pytest.approx(float(weight.abs().sum()), rel=1e-5)
    assert f"{norms['block1.conv.weight']:.2f}" in out
    assert f"run: {runs[1].path} (weight_norms.json)" in out.replace("\n", "")
    assert {path.name for path in (tmp_path / "f").iterdir()} == {"figures.json", "weight_norms.png", "weight_norms.csv"}
    status, out, err = program("weight-norms", runs[0].path, "--power", 0)
    assert (status, out) == (2, "")
    assert "--power" in err


def test_the_examples_results_are_drawn_and_on_the_page(weight_norms, runs, tmp_path):
    missing = page(runs)
    assert "gradlens weight-norms" in missing
    ANALYSES["weight_norms"].analyse(runs, RunContext())
    drawn, skipped = draw_learned([load_run(run.path) for run in runs], tmp_path / "f")
    assert ([path.name for path in drawn], skipped) == (["weight_norms.png"], {})
    shown = page(runs)
    assert "gradlens weight-norms" not in shown
    assert "Norm of each layer&#39;s weights" in shown
    assert f"{load_result(runs[0].path, 'weight_norms')['norms']['top.out.weight']:.2f}" in shown


def test_a_stored_result_counts_under_its_own_protocol_only(steps, runs, tmp_path):
    run, said = shelf.copied(runs[0], tmp_path), []
    session = Session(RunContext(), steps.Options(), notify=said.append)
    assert steps.stored(run, {"images": 3}, session) == {"protocol": {"images": 3}}
    kept = steps.store(run, {"protocol": {"images": 3, "l2": (1.0,)}, "rows": [math.nan]})
    assert steps.stored(run, {"images": 3, "l2": [1.0]}, session) == kept == {"protocol": {"images": 3, "l2": [1.0]}, "rows": [None]}
    assert not said
    assert steps.stored(run, {"images": 4, "l2": (1.0,)}, session) == {"protocol": {"images": 4, "l2": [1.0]}}
    assert said == [f"{run.path}/steps.json was made in another way (images differ): computed anew"]
    assert steps.stored(run, kept["protocol"], session, "others") == {"protocol": kept["protocol"]}
    session.options = ProbeOptions(overwrite=True)
    assert steps.stored(run, kept["protocol"], session) == {"protocol": kept["protocol"]}


@dataclasses.dataclass(frozen=True)
class Amount:
    """How much is looked at."""

    images: int = option(3, "images")
    overwrite: bool = False


class FirstLook(Steps):
    """Look at a few images, or at many."""

    Options, full = Amount, Amount(images=30)

    def protocol(self, run, session):
        return {"images": session.options.images}

    def measure(self, run, session, progress):
        return self.store(run, self.stored(run, self.protocol(run, session), session))


def test_a_first_look_shows_what_a_full_one_has_stored(runs):
    look, said, run = FirstLook(), [], runs[0]

    def images(options=None):
        said.clear()
        (result,) = look.analyse([run], RunContext(), options, notify=said.append)
        return result["protocol"]["images"]

    assert images() == 3
    assert images(look.full) == 30
    assert images() == 30
    assert said == ["steps: the numbers of --full are stored, and shown"]
    assert images(Amount(images=7)) == 7  # what was typed is measured
    assert images() == 3  # nothing of --full is left
    images(look.full)
    assert images(Amount(overwrite=True)) == 3
