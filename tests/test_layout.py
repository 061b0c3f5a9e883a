"""How the package is laid out: rooms whose imports point one way (the contract in pyproject.toml says which), modules that stay short."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from gradlens.data.datasets import DATASETS
from gradlens.methods import METHODS

PACKAGE = Path(__file__).resolve().parents[1] / "gradlens"
ROOMS = ("runtime", "data", "models", "gradients", "methods", "training", "analysis", "reporting", "cli")
LONGEST = 400  # lines of a module


def named(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {named(path): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def modules():
    """The parsed modules, by name; not when this file is collected, which every worker does."""
    return {name: ast.parse(text) for name, text in SOURCES.items()}


def at_run_time(tree):
    """All nodes but those below ``if TYPE_CHECKING:``."""
    todo = [tree]
    while todo:
        node = todo.pop()
        yield node
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            todo += node.orelse
        else:
            todo += ast.iter_child_nodes(node)


def imported(tree):
    """The modules of the package that a module imports, wherever in it."""
    for node in at_run_time(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "gradlens":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in SOURCES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "gradlens")


@cache
def graph():
    """Which modules a module imports."""
    return {name: sorted(set(imported(tree))) for name, tree in modules().items()}


def circles(edges):
    """The strongly connected parts of more than one module (Tarjan)."""
    index, low, stack, found = {}, {}, [], []

    def visit(v):
        index[v] = low[v] = len(index)
        stack.append(v)
        for w in edges.get(v, ()):
            if w not in index:
                visit(w)
                low[v] = min(low[v], low[w])
            elif w in stack:
                low[v] = min(low[v], index[w])
        if low[v] == index[v]:
            part = stack[stack.index(v) :]
            del stack[stack.index(v) :]
            if len(part) > 1:
                found.append(sorted(part))

    for v in edges:
        if v not in index:
            visit(v)
    return found


def test_the_search_finds_a_circle():
    assert circles({"a": ["b"], "b": ["c"], "c": ["a"], "d": ["a"]}) == [["a", "b", "c"]]
    assert circles({"a": ["b"], "b": ["c"], "c": []}) == []


def test_no_import_circles():
    assert circles(graph()) == []


def test_nothing_inside_imports_the_top_of_the_package():
    assert [name for name, wanted in graph().items() if "gradlens" in wanted and name != "gradlens"] == []


def test_what_a_training_is_needs_no_part_of_the_room_above_it():
    """training/*.py come before online_probe, parallel, checks, cost, runs and sweep, which build on them."""
    here = [name for name in SOURCES if name.startswith("gradlens.training.") and name.count(".") == 2]
    root = [name for name in here if f"{name}." not in "".join(SOURCES)]
    parts = tuple(f"gradlens.training.{part}." for part in ("online_probe", "parallel", "checks", "cost", "runs", "sweep"))
    climbing = {name: [m for m in graph()[name] if m.startswith(parts)] for name in root}
    assert {name: modules for name, modules in climbing.items() if modules} == {}


def test_the_top_holds_the_rooms_and_three_files():
    loose = sorted(path.name for path in PACKAGE.glob("*.py"))
    assert loose == ["__init__.py", "__main__.py", "_version.py"]
    assert sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py")) == sorted(ROOMS)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_can_be_read_at_once(path):
    assert len(path.read_text().splitlines()) <= LONGEST


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*/**/__init__.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_room_says_what_lives_in_it_and_holds_nothing_else(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    if path.parent.name != "methods":  # whose __init__ is the registry
        assert len(tree.body) == 1


# ------------------------------------------------------------------------------------------ who names rules and data sets


def texts(tree):
    """The strings of a module that are no docstrings, with their lines."""
    bodies = (node.body for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef))
    docstrings = {id(body[0].value) for body in bodies if body and isinstance(body[0], ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


def naming(words, own_room):
    """Where a string outside a room is one of some names, or several of them; sentences may hold one, as help and advice do."""
    found = set()
    for module, tree in modules().items():
        if module.startswith(f"gradlens.{own_room}") or "Written by " in (ast.get_docstring(tree) or ""):  # from the registries
            continue
        found |= {(module, text) for _, text in texts(tree) if text.strip() and set(re.split(r"[\s,]+", text.strip(" ,"))) <= words}
    return found


def test_the_search_for_names_sees_strings_and_no_docstrings():
    tree = ast.parse('"""dgl"""\ndef f(rule="bp"):\n    "dni"\n    return rule == "dgl" or f"{rule} greedy"')
    assert [text for _, text in texts(tree)] == ["bp", "dgl", " greedy"]


def test_no_rule_is_named_outside_its_room():
    """What is peculiar to a rule is an attribute of its class; what commands compare stands beside the registry."""
    assert naming(set(METHODS), "methods") == set()


def test_no_module_above_the_rules_imports_one():
    """They ask the registry, and what a rule is like they ask the rule; a user's rule is made by `methods/custom.py`."""
    above = {name: wanted for name, wanted in graph().items() if not name.startswith("gradlens.methods")}
    found = {(name, module) for name, wanted in above.items() for module in wanted if module.startswith("gradlens.methods.")}
    assert found == {("gradlens.training.user_references", "gradlens.methods.custom")}


def test_no_data_set_is_named_outside_its_room():
    cards = {("gradlens.training.cost.method_cards", "cifar10")}  # the documents' images, on whose sizes every rule's card is measured
    assert naming(set(DATASETS), "data") == cards


# ------------------------------------------------------------------------------------------------ what docstrings refer to

REFERENCE = re.compile(r":(?:func|class|mod|meth|data|attr|exc):`~?([^`]+)`")


def defined(tree):
    """The names of a module's functions, classes, methods, variables and attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


@cache
def names_of():
    """The names that each module defines."""
    return {name: set(defined(tree)) for name, tree in modules().items()}


def resolves(target, module):
    """Whether ``gradlens.a.b.name``, ``.sibling`` or ``.sibling.name``, or ``name`` or ``Class.name`` of any module is there."""
    if target.startswith("."):
        target = module.rpartition(".")[0] + target
    if not target.startswith("gradlens."):
        return any(set(target.split(".")) <= names for names in names_of().values())
    owner, _, name = target.rpartition(".")
    return target in SOURCES or name in names_of().get(owner, ())


def test_the_search_finds_a_stale_reference():
    there = ("gradlens.training.state.TrainState", "gradlens.data.split", ".loop", ".loop.fit", "TrainState", "Method.signal")
    gone = (
        "gradlens.online.regret_rows",
        "gradlens.training.loop.stage_of",
        ".cuts",
        ".loop.stage_of",
        "cuts.cut_module",
        "nothing_of_this_name",
    )
    assert [target for target in there + gone if not resolves(target, "gradlens.training.step")] == list(gone)


def test_what_docstrings_refer_to_is_there():
    stale = {(name, target) for name, text in SOURCES.items() for target in REFERENCE.findall(text) if not resolves(target, name)}
    assert stale == set()
