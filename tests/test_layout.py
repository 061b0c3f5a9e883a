"""How the package is laid out: rooms whose imports point one way (the contract in pyproject.toml says which), modules that stay short."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from gradlens.data.datasets import DATASETS
from gradlens.methods import METHODS

PACKAGE = Path(__file__).resolve().parents[1] / "gradlens"
ROOMS = ("runtime", "data", "models", "gradients", "tasks", "methods", "training", "analysis", "reporting", "cli")
LONGEST = 400  # lines of a module
LONGEST_FUNCTION = 60  # … of a function, unless a comment in its signature says why it is longer
ALIKE = 6  # equal lines in a row: those are to be a function


def named(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {named(path): path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}


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


def test_the_top_holds_the_rooms_and_four_files():
    loose = sorted(path.name for path in PACKAGE.glob("*.py"))
    assert loose == ["__init__.py", "__main__.py", "_version.py", "testing.py"]
    assert sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py")) == sorted(ROOMS)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_can_be_read_at_once(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*/**/__init__.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_room_says_what_lives_in_it_and_holds_nothing_else(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    if path.parent.name != "methods":  # whose __init__ is the registry
        assert len(tree.body) == 1


# ------------------------------------------------------------------------------------------------- long and equal code


def too_long(text, tree):
    """The functions of more lines than are allowed, but those with a reason: a comment on a line of the signature."""
    lines = text.splitlines()
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.end_lineno - node.lineno < LONGEST_FUNCTION:
            continue
        if not any(re.search(r"  # \w", line) for line in lines[node.lineno - 1 : node.body[0].lineno - 1]):
            yield node.name


def written_lines(text, tree):
    """(number, text without indentation) of a module's lines, but imports, comments, and those without a letter or a digit."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    left_out = {i for node in imports for i in range(node.lineno, node.end_lineno + 1)}
    lines = ((i, line.strip()) for i, line in enumerate(text.splitlines(), 1) if i not in left_out)
    return [(i, line) for i, line in lines if re.search(r"\w", line) and not line.startswith("#")]


def alike(sources):
    """The places, as (module, line), at which so many lines in a row are the same as elsewhere; ``sources``: name -> (text, tree)."""
    places = {}
    for name, (text, tree) in sources.items():
        lines = written_lines(text, tree)
        for k in range(len(lines) - ALIKE + 1):
            places.setdefault(tuple(line for _, line in lines[k : k + ALIKE]), []).append((name, lines[k][0]))
    return [found for found in places.values() if len(found) > 1]


@cache
def written():
    """name -> (text, tree) of the package's modules, but for those that a tool wrote, and of the scripts beside it."""
    scripts = {f"analyses/{path.name}": path.read_text(encoding="utf-8") for path in sorted((PACKAGE.parent / "analyses").rglob("*.py"))}
    by_hand = {name: tree for name, tree in modules().items() if "Written by " not in (ast.get_docstring(tree) or "")}
    return {name: (SOURCES[name], tree) for name, tree in by_hand.items()} | {n: (t, ast.parse(t)) for n, t in scripts.items()}


def test_the_searches_find_long_and_equal_code():
    def parsed(text):
        return text, ast.parse(text)

    body = "".join(f"    x{i} = {i}\n" for i in range(LONGEST_FUNCTION - 1))
    reason = "def g(\n    x,  # a table in words\n):\n" + body
    assert list(too_long(*parsed(f"def f():\n{body}"))) == []
    assert list(too_long(*parsed(f"def f():\n{body}    y = 1\n{reason}"))) == ["f"]
    six = "".join(f"y{i} = (\n    {i},\n)\n" for i in range(ALIKE // 2))
    inside = "if z:\n" + "".join(f"    {line}\n\n" for line in six.splitlines())
    assert alike({"a": parsed(f"import os\n{six}"), "b": parsed(f"def f():\n    pass\n{inside}")}) == [[("a", 2), ("b", 4)]]
    assert alike({"a": parsed(f"z = 1\n{six}z = 2\n{six}")}) == [[("a", 2), ("a", 12)]]
    others = six.replace("y0", "z0")
    imports = "from os import (\n    a,\n    b,\n    c,\n    d,\n    e,\n    f,\n)\n"
    assert alike({"a": parsed(imports + six), "b": parsed(imports + others)}) == []


def test_no_function_is_too_long_without_a_reason():
    assert {name: long for name, source in written().items() if (long := list(too_long(*source)))} == {}


def test_no_run_of_lines_is_in_two_places():
    assert alike(written()) == []


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


TO_STDERR = {f"gradlens.{name}" for name in ("runtime.errors", "runtime.process_group", "gradients.lightning", "cli.progress", "cli.sweep")}


def calls(tree):
    """(node, name, on what) of each call: of a function None, of a method the name before the dot, or empty."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node, node.func.attr, getattr(node.func.value, "id", "")
        elif isinstance(node, ast.Call):
            yield node, getattr(node.func, "id", ""), None


def with_the_locale(tree):
    """Lines that read or write text in the locale's encoding."""
    for node, called, on in calls(tree):
        binary = any(isinstance(a, ast.Constant) and "b" in str(a.value) for a in node.args)
        text = called in ("read_text", "write_text") and on is not None
        opened = called == "open" and not binary and on not in ("Image", "Writer", "tarfile", "os")
        if (text or opened) and not any(keyword.arg == "encoding" for keyword in node.keywords):
            yield node.lineno


def past_the_terminal(name):
    """Lines of a module that print past ``runtime/terminal.py``."""
    for node, called, on in calls(modules()[name]):
        to_file = name in TO_STDERR and any(keyword.arg == "file" for keyword in node.keywords)
        if (called == "print" and on is None and not to_file) or called in ("echo", "Console"):
            yield node.lineno


def test_no_encoding_is_the_locales():
    """Files go through runtime/text_files.py, or say an encoding; in the tests that is asked of what is run as a script or imported."""
    root = PACKAGE.parent
    scripts = [path for folder in ("analyses", "tools", ".ci", "tests") for path in sorted((root / folder).rglob("*.py"))]
    sources = {str(p.relative_to(root)): p.read_text(encoding="utf-8") for p in scripts if not p.name.startswith("test_")} | SOURCES
    assert [f"{name}:{line}" for name, text in sources.items() for line in with_the_locale(ast.parse(text))] == []


def test_text_is_printed_in_one_place():
    assert [f"{name}:{line}" for name in SOURCES if name != "gradlens.runtime.terminal" for line in past_the_terminal(name)] == []


def test_the_search_finds_text_in_the_locales_encoding():
    said = "open(p); p.open('w'); p.read_text(); open(p, 'rb'); p.write_text(t, encoding='utf-8'); read_text(p); Image.open(p)"
    assert list(with_the_locale(ast.parse(said.replace("; ", "\n")))) == [1, 2, 3]


# ------------------------------------------------------------------------------------------------- what CONTRIBUTING refers to

PAGE = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
OF_EXAMPLES = {
    "gradlens/methods/sign_bp.py",
    "tests/methods/test_sign_bp.py",
    "config.optimizer.gradient_noise",
    "WeightNorms(),",
    "FOLDER",
}


@cache
def parameters():
    """The names of all parameters."""
    return {node.arg for tree in modules().values() for node in ast.walk(tree) if isinstance(node, ast.arg)}


def is_there(word):
    """Whether what stands between backticks is no path and no name of code, or one that is there."""
    if re.fullmatch(r"[\w.]+/[\w./]*|[\w/]+\.(?:py|toml|cff|yml)", word):
        return any((folder / word).exists() for folder in (PACKAGE.parent, PACKAGE))
    found = re.fullmatch(r"([A-Za-z]\w*(?:\.\w+)*)(\(.*\)?)?", word, re.S)
    if not found or not (found[2] or re.search(r"[._A-Z]", word)) or word.endswith((".csv", ".json")):
        return True
    owner, _, name = found[1].rpartition(".")
    owners = [module for module in SOURCES if owner and f".{module}".endswith(f".{owner}")]
    return (
        resolves(found[1], "")
        or any(f'"{word}"' in text for text in SOURCES.values())
        or name in parameters()
        or any(name in names_of()[module] for module in owners)
    )


def stale_words(page):
    """What a page puts between backticks, outside code and what is to come, that is not there; and files of its tree of the package."""
    prose = re.sub(r"```.*?```|\nTo come, and where:.*?\n\n", "", page, flags=re.S)
    words = set(re.findall(r"`([^`]+)`", prose)) - OF_EXAMPLES
    (tree,) = re.findall(r"```\n(gradlens/\n.*?)```", page, re.S)
    files = {path.name for path in PACKAGE.parent.rglob("*.py")}
    return {word for word in words if not is_there(word)} | (set(re.findall(r"\w+\.py", tree)) - files)


def test_the_search_finds_a_stale_word_of_a_page():
    page = "```\ngradlens/\n  step.py gone.py\n```\n`training/step.py` `training/gone.py` `fit(state)` `make_run_context` `Signal.delta`"
    page += " `Signal.own_gone` `delayed_message` `batch_shard.global_count` `batch_shard.gone` `gradlens.training.step`"
    page += " `gradlens.training.gone` `gone()` `bp`"
    gone = {"gone.py", "training/gone.py", "make_run_context", "Signal.own_gone", "batch_shard.gone", "gradlens.training.gone", "gone()"}
    assert stale_words(page) == gone


def test_what_contributing_refers_to_is_there():
    assert stale_words(PAGE) == set()


def test_no_two_files_of_tests_have_one_name():
    """Pytest imports them by it: the second would stop a run of both."""
    names = [path.name for path in (PACKAGE.parent / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
