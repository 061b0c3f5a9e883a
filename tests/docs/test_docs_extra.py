"""The extra ``docs`` holds what the documentation is made with: where only it is installed, all that is documented can be imported."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OURS = canonicalize_name(PROJECT["name"])

CODE = """
import sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in MISSING else self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
import gradlens, tools.docs.__main__, tools.docs.figures
from tools.docs.reference import HEADINGS
for name in (name for names in HEADINGS.values() for name in names):
    getattr(gradlens, name)
"""


def required(name: str, extra: str) -> list[Requirement]:
    """What a distribution requires with an extra; of ours what pyproject.toml says now."""
    if name == OURS:
        said = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"].get(extra, [])]
    else:
        try:
            said = requires(name) or []
        except PackageNotFoundError:  # for another system or Python
            return []
    return [r for r in map(Requirement, said) if r.marker is None or r.marker.evaluate({"extra": extra})]


def installed(*extras: str) -> set[str]:
    """The distributions that pip installs with these extras of ours."""
    to_do, done = [(OURS, extra) for extra in extras], set[tuple[str, str]]()
    while to_do:
        if (here := to_do.pop()) not in done:
            done.add(here)
            to_do += [(canonicalize_name(r.name), extra) for r in required(*here) for extra in ("", *r.extras)]
    return {name for name, _ in done}


def imports_with(*extras: str) -> subprocess.CompletedProcess[str]:
    there = installed(*extras)
    missing = {module for module, dists in packages_distributions().items() if there.isdisjoint(map(canonicalize_name, dists))}
    code = CODE.replace("MISSING", repr(missing - {"gradlens", "tools", "analyses"}))
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_what_the_documentation_is_made_with_is_in_its_extra():
    done = imports_with("docs")
    assert done.returncode == 0, done.stderr


def test_what_is_missing_without_the_extra_is_seen():
    assert {"mkdocs", "mkdocs-material", "lightning"} <= installed("docs") - installed("")


@pytest.mark.slow
def test_without_the_extra_it_is_not():
    assert "No module named" in imports_with("").stderr
