"""What ``tests/mutations.py`` changes stands in the package, each text in one place; running it takes minutes, so the suite only looks."""

import pytest
from mutations import MUTATIONS, ROOT


@pytest.mark.parametrize("name", MUTATIONS)
def test_what_is_broken_on_purpose_stands_in_one_place(name):
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "gradlens").rglob("*.py")]
    assert sum(text.count(MUTATIONS[name].old) for text in sources) == 1
    assert all(list((ROOT / "tests").rglob(f"{file}.py")) for file in MUTATIONS[name].files)
