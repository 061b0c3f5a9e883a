"""Every test: one thread, a known global random stream, and hypothesis without a clock or a memory of earlier runs.

Tests that carry one of the marks slow, torchrun, ray, browser or cuda are left out unless they are asked for: by ``-m``, by their node
id (``pytest tests/test_x.py::test_y``), or by the mark ``smoke``, which one test of each kind has.
"""

import multiprocessing
import os
import sys
from pathlib import Path

for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_threads, "1")  # of the processes that tests start, too; read when numpy and torch are imported

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("gradlens", deadline=None, derandomize=True, database=None)
settings.load_profile("gradlens")

ON_REQUEST = ("slow", "torchrun", "ray", "browser", "cuda")


def pytest_collection_modifyitems(config, items):
    """Leave out what is marked, where nobody chose by ``-m``."""
    if config.option.markexpr:
        return
    named = [argument.partition("::") for argument in config.args if "::" in argument]
    asked = [((config.invocation_params.dir / file).resolve(), test) for file, _, test in named]

    def wanted(item):
        marks = {mark.name for mark in item.iter_markers()}
        if not marks & set(ON_REQUEST) or "smoke" in marks:
            return True
        test = item.nodeid.partition("::")[2]
        return any(Path(item.path) == file and (test == name or test.startswith((f"{name}[", f"{name}::"))) for file, name in asked)

    left_out = [item for item in items if not wanted(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if wanted(item)]


@pytest.fixture(scope="session", autouse=True)
def shelf_of_runs(tmp_path_factory):
    """Runs on the shelf lie where all workers find them."""
    base = tmp_path_factory.getbasetemp()
    os.environ["GRADLENS_SHELF"] = str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shelf")


@pytest.fixture(scope="session", autouse=True)
def cache_of_images(tmp_path_factory):
    """Decoded image folders are kept where the tests' other files are, by the programs that tests start too."""
    os.environ["GRADLENS_CACHE"] = str(tmp_path_factory.getbasetemp() / "decoded")


@pytest.fixture(autouse=True)
def known_stream():
    torch.default_generator.manual_seed(0)  # torch.manual_seed takes milliseconds, here for five thousand tests


@pytest.fixture
def few_pixels(monkeypatch):
    """Figures are saved with few pixels, in a third of the time, where a test does not ask how they look."""
    from gradlens.reporting import style

    monkeypatch.setattr(style, "DPI", 30)


@pytest.fixture
def own_code_forgotten(monkeypatch, tmp_path):
    """What a test names of files of its own is forgotten after it; files are looked for in its own folder."""
    from gradlens.methods import METHODS
    from gradlens.models.zoo import MODELS
    from gradlens.runtime import user_code
    from gradlens.training import user_references

    tables = (METHODS, MODELS, *user_references.TYPED.values(), user_references.RULES, user_code._imported)
    kept = [(table, dict(table)) for table in tables]
    monkeypatch.chdir(tmp_path)
    yield
    for table, content in kept:
        table.clear()
        table.update(content)


@pytest.fixture(scope="session")
def processes():
    """Processes that start at once: a server imports the libraries, never computes, and is forked."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gradlens.training.runs.train_run", "gradlens.cli.main", "sklearn.datasets", "torchvision"])
    return context


@pytest.fixture
def program(monkeypatch, capsys):
    """Run the program in this process: arguments -> (exit status, stdout, stderr)."""
    from gradlens.cli.main import main

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["gradlens", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        out, err = capsys.readouterr()
        return exit_.value.code, out, err

    return run


@pytest.fixture
def rules_of_users():
    """Forget the rules in users' files that this process knows, before a test that names some and after it."""
    from gradlens.methods import METHODS
    from gradlens.runtime import user_code
    from gradlens.training import user_references

    def forget():
        for name, _ in list(user_references.RULES):
            METHODS.pop(name, None)
        for known in (user_references.TYPED["method"], user_references.RULES, user_code._imported):
            known.clear()

    forget()
    yield
    forget()
