"""Every test: one thread, a known global random stream, and hypothesis without a clock or a memory of earlier runs."""

import sys

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("gradlens", deadline=None, derandomize=True, database=None)
settings.load_profile("gradlens")


@pytest.fixture(autouse=True)
def known_stream():
    torch.manual_seed(0)


@pytest.fixture
def program(monkeypatch, capsys):
    """Run the program in this process: arguments -> (exit status, stdout, stderr)."""
    from gradlens.cli import main

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["gradlens", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        out, err = capsys.readouterr()
        return exit_.value.code, out, err

    return run
