"""The worked examples of CONTRIBUTING.md, put into a copy of the package as the page says."""

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def code_in(page, mark):
    """The Python code below a mark of a page, each piece of it."""
    return re.findall(rf"<!-- {mark}.*? -->\n```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)


def replaced_once(text, old, new):
    assert text.count(old) == 1, old
    return text.replace(old, new)


def copy_of_package(folder):
    """The package in another folder."""
    for part in ("gradlens", "tools"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    return folder / "gradlens"


def add_rule(package):
    """Add the rule of the page: a file, an import and a line of the registry."""
    (code,) = code_in("CONTRIBUTING.md", "example: tests/test_contributing.py runs this")
    (package / "methods" / "sign_bp.py").write_text(code, encoding="utf-8")
    imported, line = re.findall(r"```python\n((?:from gradlens.methods|    \"sign-bp\").*?\n)```", PAGE)
    registry = package / "methods" / "__init__.py"
    text = replaced_once(registry.read_text(encoding="utf-8"), "\n\nMETHODS", f"\n{imported}\nMETHODS")
    registry.write_text(replaced_once(text, "\n}\nSHIPPED", f"\n{line}}}\nSHIPPED"), encoding="utf-8")


def with_data_set(source):
    """The text of data/datasets.py with the data set of the page in it."""
    function, entry = code_in("CONTRIBUTING.md", "example: tests/test_contributing_data.py puts")
    registry = re.search(r"\nclass DataSet.*?\nDATASETS: .*?\n}\n", source, re.S).group()
    return source.replace(registry, f"\n{function}\n{registry.removesuffix('}' + chr(10))}{entry}}}\n")


def add_data_set(package):
    """Add the data set of the page."""
    file = package / "data" / "datasets.py"
    file.write_text(with_data_set(file.read_text(encoding="utf-8")), encoding="utf-8")


def add_setting(package):
    """Add the setting of the page behind ``warmup``."""
    (code,) = code_in("CONTRIBUTING.md", "setting: tests/test_contributing.py runs this")
    file = package / "training" / "setting_groups.py"
    before, warmup, after = file.read_text(encoding="utf-8").partition("    warmup: int = setting(")
    line, _, rest = after.partition("\n")
    file.write_text(f"{before}{warmup}{line}\n{code}{rest}", encoding="utf-8")


def touched(package):
    """The files that differ from the package's own, by their path in it."""
    return {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if not (own := ROOT / "gradlens" / path.relative_to(package)).exists() or path.read_bytes() != own.read_bytes()
    }
