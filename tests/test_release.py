"""What a release is made of: metadata that agree, a distribution that holds what it must, workflows that a linter can read."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from filelock import FileLock
from packaging.requirements import Requirement

import gradlens

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
WORKFLOWS = ROOT / ".github" / "workflows"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def loaded(path):
    return yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # "on" stays a word


def jobs(workflow):
    return loaded(WORKFLOWS / workflow)["jobs"]


def commands(job):
    """Every line that a job runs."""
    return [line for step in job["steps"] for line in step.get("run", "").splitlines()]


# --- what the project says of itself ------------------------------------------------------------------------------------------


def test_the_citation_is_of_this_version():
    cited = loaded(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= set(cited)
    assert cited["cff-version"] == "1.2.0"
    assert cited["version"] == gradlens.__version__
    assert cited["license"] == PROJECT["license"]
    assert all(author.get("name") or author.get("family-names") for author in cited["authors"])


def test_the_changelog_begins_with_this_version():
    first = re.search(r"^## \[(.*?)\] - (.*)$", CHANGELOG, re.M)
    assert first[1] == gradlens.__version__
    assert re.fullmatch(r"unreleased|\d{4}-\d{2}-\d{2}", first[2])


def test_every_python_that_is_named_is_tested_and_none_below_the_least():
    named = re.findall(r":: (3\.\d+)$", "\n".join(PROJECT["classifiers"]), re.M)
    assert named == jobs("tests.yml")["newest"]["strategy"]["matrix"]["python"]
    assert PROJECT["requires-python"] == f">={named[0]}"
    lowest = next(step for step in jobs("tests.yml")["lowest"]["steps"] if "setup-python" in step.get("uses", ""))
    assert lowest["with"]["python-version"] == named[0]


def test_the_licence_is_stated_once():
    """By its SPDX name: indexes refuse a classifier beside it."""
    assert PROJECT["license"] == "MIT"
    assert not [c for c in PROJECT["classifiers"] if c.startswith("License")]


def test_every_requirement_has_a_lower_bound():
    """The tests on the lowest versions need one of each."""
    wanted = [*PROJECT["dependencies"], *(line for lines in PROJECT["optional-dependencies"].values() for line in lines)]
    bounds = {one.name: {part.operator for part in one.specifier} for one in map(Requirement, wanted) if one.name != PROJECT["name"]}
    assert "torch" in bounds
    assert not [name for name, operators in bounds.items() if not operators & {">=", "=="}]


def snippets():
    """(0.1.0's code, 0.2.0's) of the changelog."""
    return [re.split(r"^# 0\.2\.0\n", code, flags=re.M) for code in re.findall(r"```python\n# 0\.1\.0\n(.*?)```", CHANGELOG, re.S)]


def test_old_code_in_the_changelog_is_refused_and_new_names_are_there():
    for old, new in snippets():
        with pytest.raises(ImportError):
            exec(old, {})
        compile(new, "new", "exec")
        exec("\n".join(re.findall(r"^from .*$", new, re.M)), {})


@pytest.mark.slow
def test_new_code_in_the_changelog_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    defined = {"__name__": "changelog"}
    for _, new in snippets():
        exec(new.replace("epochs=1", 'epochs=1, limit=64, batch_size=64, limit_test=32, model="mlp"'), defined)
    gradlens.check_method(defined["SignBackprop"])
    assert defined["Local"].depends_on == {"input", "labels"}
    assert list(tmp_path.glob("runs/dgl-digits-mlp-*"))


# --- workflows, which run elsewhere: here they are linted -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("github-workflows", ".github/workflows/*.yml"),
        ("github-issue-forms", ".github/ISSUE_TEMPLATE/[!c]*.yml"),
        ("github-issue-config", ".github/ISSUE_TEMPLATE/config.yml"),
        ("citation-file-format", "CITATION.cff"),
    ],
)
def test_files_for_a_host_agree_with_its_schemas(schema, files):
    pytest.importorskip("check_jsonschema")
    found = sorted(ROOT.glob(files))
    assert found
    done = run([sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *found])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_workflows_and_forms_are_tidy_yaml():
    pytest.importorskip("yamllint")
    rules = "line-length: {max: 140}, comments: {min-spaces-from-content: 1}, document-start: disable, truthy: {check-keys: false}"
    words = ["yamllint", "--strict", "-d", f"{{extends: default, rules: {{{rules}}}}}"]
    done = run([sys.executable, "-m", *words, ROOT / ".github", ROOT / "CITATION.cff"])
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_workflows_hold_no_known_danger():
    program = Path(sys.executable).parent / "zizmor"
    if not program.exists():
        pytest.skip("zizmor is not installed (extra `release`)")
    done = run([program, "--offline", "--no-progress", ROOT])
    assert done.returncode == 0, done.stdout


# --- the distribution ------------------------------------------------------------------------------------------------------------


class Built(NamedTuple):
    """A distribution in its two forms."""

    sdist: Path
    wheel: Path


def run(words, **more):
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, encoding="utf-8", errors="replace", **more)


def tracked():
    """Files of this checkout that git does not ignore."""
    listed = run(["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "-z"])
    if listed.returncode:
        pytest.skip("not in a git checkout: which files belong to the project is not known")
    return {name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()}


@pytest.fixture(scope="module")
def built(tmp_path_factory, request):
    """Built once, by whichever worker asks first."""
    pytest.importorskip("build")
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "distributions"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            done = run([sys.executable, "-m", "build", "--outdir", folder, ROOT], cwd=base)  # no folder `build` of the user's is imported
            assert done.returncode == 0, done.stdout + done.stderr
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return Built(sdist, wheel)


@pytest.mark.slow
def test_the_index_would_show_the_readme(built):
    pytest.importorskip("twine")
    done = run([sys.executable, "-m", "twine", "check", "--strict", *built])
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_sdist_is_what_git_tracks(built):
    """Nothing is left out, nothing that is ignored gets in."""
    with tarfile.open(built.sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert held - tracked() == {"PKG-INFO"}
    assert tracked() <= held


@pytest.mark.slow
def test_the_wheel_is_the_package(built):
    with zipfile.ZipFile(built.wheel) as archive:
        held = archive.namelist()
    information = {name for name in held if ".dist-info/" in name}
    assert set(held) - information == {name for name in tracked() if name.startswith("gradlens/")}
    assert any(name.endswith("licenses/LICENSE") for name in information)


@pytest.mark.slow
def test_the_wheel_runs_the_main_command_as_other_systems_are_asked_to(built, tmp_path):
    """The lines of the smoke job, in an empty folder, beside this environment's torch."""
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    done = run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", installed, built.wheel])
    assert done.returncode == 0, done.stderr
    lines = commands(jobs("tests.yml")["smoke"])
    assert [line for line in lines if line.startswith("gradlens compare-gradients")]
    script = "\n".join(line for line in lines if not line.startswith("pip "))
    found = {"PYTHONPATH": str(installed), "PATH": f"{installed / 'bin'}{os.pathsep}{os.environ['PATH']}", "RUNNER_TEMP": str(tmp_path)}
    done = run(["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, env=os.environ | found)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "block1.conv" in done.stdout
    where = run([sys.executable, "-c", "import gradlens; print(gradlens.__file__)"], cwd=empty, env=os.environ | found)
    assert Path(where.stdout.strip()).is_relative_to(installed)
