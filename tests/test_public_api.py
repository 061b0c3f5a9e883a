"""All that a user imports comes from ``gradlens``: loaded when first used, and seen by type checkers and completion."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import gradlens
from gradlens import testing
from gradlens.methods.backprop import Backprop

ROOT = Path(__file__).resolve().parents[1]  # the checkout, wherever the package is installed


def test_type_checkers_see_exactly_what_is_exported():
    tree = ast.parse(Path(gradlens.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and isinstance(node.test, ast.Name)]
    seen = {a.asname: f"{n.module}:{a.name}" for n in block.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert seen == gradlens._HOME
    assert set(gradlens.__all__) == {"__version__", *gradlens._HOME}
    assert set(gradlens.__all__) <= set(dir(gradlens))


@pytest.mark.parametrize("name", [name for name in gradlens.__all__ if name != "LensCallback"])
def test_each_name_is_there_and_documented(name):
    found = getattr(gradlens, name)
    assert name in ("METHODS", "__version__") or found.__doc__
    assert name not in gradlens._HOME or found is getattr(gradlens, name)


def test_importing_it_imports_neither_torch_nor_numpy():
    code = "import gradlens, sys; sys.exit(bool({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_names_of_the_first_version_are_answered_with_the_new_one():
    with pytest.raises(ImportError, match=r"gradlens\.Place is called gradlens\.RunContext since version 0\.2\.0"):
        from gradlens import Place  # noqa: F401
    with pytest.raises(ImportError, match="cannot import name 'Plaice'"):
        from gradlens import Plaice  # noqa: F401
    with pytest.raises(AttributeError, match="'gradlens' has no attribute 'Plaice'"):
        _ = gradlens.Plaice


def test_pages_import_only_what_is_exported():
    named = set()
    made = {"changelog.md", "gallery.md", "contributing.md", "rules", "reference"}  # by tools.docs
    pages = [p for p in (ROOT / "docs").rglob("*.md") if not made & set(p.relative_to(ROOT).parts)]
    for page in (ROOT / "README.md", *pages):
        for snippet in re.findall(r"```python\n(.*?)```", page.read_text(), re.S):
            for node in ast.walk(ast.parse(snippet)):
                if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "gradlens":
                    names = {alias.name for alias in node.names}
                    if node.module == "gradlens.testing":  # a module of its own, as it is for tests
                        assert names <= set(testing.__all__), page.name
                        continue
                    assert node.module == "gradlens", (page.name, node.module)
                    named |= names
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "gradlens":
                    named.add(node.attr)
        named |= set(re.findall(r"`gradlens\.(\w+)", page.read_text())) - {"md", "testing"}
    assert {"Method", "compare", "load", "LensCallback", "ModelSpec"} <= named
    assert named <= set(gradlens.__all__)


def test_nothing_inside_imports_the_door():
    for path in Path(gradlens.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not any(alias.name == "gradlens" for alias in node.names), path
            if isinstance(node, ast.ImportFrom) and node.module == "gradlens":
                assert not {alias.name for alias in node.names} & set(gradlens.__all__), path


# ---------------------------------------------------------------------------------------------------------- check_method


class Louder(Backprop):
    """Twice the gradient at the top."""

    def signal(self, k, passes, received):
        said = super().signal(k, passes, received)
        return said._replace(delta=2 * said.delta, messages_below=(2 * said.messages_below[0],)) if k == self.output_block else said


def test_a_rule_that_keeps_to_everything_passes():
    torch.set_num_threads(1)
    results = gradlens.check_method(Backprop, networks=["mlp"])
    assert len(results) > 8
    assert {r.network for r in results} == {"mlp"}
    assert not any(r.failed for r in results)


def test_the_first_failure_is_raised_or_all_are_returned():
    with pytest.raises(gradlens.CheckFailed, match=r"Louder fails the check 'truth' on mlp: the recorded truth at"):
        gradlens.check_method(Louder, networks=["mlp"])
    results = gradlens.check_method(Louder, {}, networks=["mlp"], on_fail="return")
    assert [r.check for r in results if r.failed] == ["truth"]


def test_unknown_networks_and_options_are_refused_in_a_sentence():
    with pytest.raises(gradlens.InputError, match="unknown network 'mpl'"):
        gradlens.check_method(Backprop, networks=["mpl"])
    with pytest.raises(gradlens.InputError, match="unknown option of Backprop 'strength'"):
        gradlens.check_method(Backprop, {"strength": 1})
    dni = gradlens.METHODS["dni"]
    with pytest.raises(gradlens.InputError, match="option of DNI: bp_lambda: input should be less than or equal to 1, got 2"):
        gradlens.check_method(dni, {"bp_lambda": 2})
