"""What users read is in the field's standard terms: no docstring, comment or message has the words that version 0.1.0 used for them.

A room, folder of tools or page is added by a line in ``ROOMS``, ``TOOLS`` or ``PAGES``; a word that is right where it stands is
named in ``RIGHT``.
"""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

from gradlens.models.zoo import MODELS
from gradlens.training.checks.method_checks import METHOD_CHECKS

REPOSITORY = Path(__file__).resolve().parents[1]
ROOMS = ("gradients", "methods", "models", "data", "runtime", "training", "analysis", "reporting", "cli")
TOOLS = ("tools",)  # folders of the checkout whose Python files are read, docstrings of pages that they write too
WRITTEN = ("changelog.md", "gallery.md", "contributing.md", "rules", "reference")  # by tools.docs, from what is read elsewhere
PAGES = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "gradlens/reporting/html/template/report.html.j2",
    "gradlens/reporting/html/template/overview.html.j2",
    *(
        path.relative_to(REPOSITORY).as_posix()
        for path in sorted((REPOSITORY / "docs").rglob("*.md"))
        if not set(WRITTEN) & set(path.relative_to(REPOSITORY).parts)
    ),
)

DIALECT = {  # pattern -> the standard term
    r"\btold\b": "error signal, gradient",
    r"\btells? (?:a|the|each|every|it|its|them|others|stderr|people|users)\b": "sends, returns, says",
    r"\b(?:hears?|heard|listens?|unheard)\b": "receives; backward message; heartbeat",
    r"\b(?:speaks?|speaking|spoken)\b": "reports, prints, messages",
    r"\b(?:nobody|nobody's|somebody|everybody|whoever|whomever)\b": "a rank, a block, the caller, …",
    r"\bthe documents\b|\bdocuments'": "the reference study, or the paper by name",
    r"\bwhat one process would\b|\bone process would have (?:made|given|it)\b": "matches a single process; all-reduce",
    r"\bspoil(?:s|ed|t)?\b": "invalidates, modifies",
    r"\bby heart\b": "memorised",
    r"\bthe message from above\b|\bwhat comes from above\b": "the message of block k+1",
    r"\bthe block (?:above|below)\b|\bthe ones? (?:above|below) it\b": "block k+1, block k−1",
    r"\bthe (?:block|rank|layer|rule|network|tensor)s? (?:asks?|wants?|knows?|thinks?|says?)\b": "needs, requires, defines, returns",
    r"\bblocks? (?:asks?|wants?|knows?|says?)\b": "needs, requires, returns",
    r"\bas it was run\b": "executed",
    r"\bbubble by the book\b": "theoretical pipeline bubble",
    r"\bgoes? on from\b|\bgone on with\b": "continues from, is resumed",
    r"\bsigns of life\b": "heartbeats",
    r"\bthe gradient of nothing\b": "not the gradient of any loss",
    r"\blaws?\b": "property, check",
    r"\bjudged?\b": "evaluated",
    r"\bhow one notices\b|\bwho is there\b": "failure detection, rank discovery",
}
PLAIN = ("judge", "the block (?:above|below)", "goes? on from")  # good English on a page, where they are no term

RIGHT = {  # (file, the words around) -> why: where a word of the list means something else
    ("runtime/process_group.py", "signs of life"): "name of a thread that tests look for",
    ("runtime/old_names.py", "launch laws layers"): "names of modules of version 0.1.0",
}


def texts(path):
    """(line, text) of every docstring, comment and string of a Python file, or of every line of a page."""
    source = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from enumerate(source.splitlines(), 1)
        return
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def found_in(path, name):
    """Sentences of a file in the old words."""
    for line, text in texts(path):
        words = " ".join(text.split())
        for file, right in RIGHT:
            words = words.replace(right, "") if file == name else words
        for pattern, term in DIALECT.items():
            if path.suffix == ".md" and any(part in pattern for part in PLAIN):
                continue
            if found := re.search(pattern, words, re.IGNORECASE):
                yield f"{name}:{line}: {words[max(0, found.start() - 30) : found.end() + 30]!r}: wanted {term}"


def files(place):
    """The files of a room, or a page."""
    root = REPOSITORY / "gradlens"
    if place in ROOMS:
        return [(path, path.relative_to(root).as_posix()) for path in sorted((root / place).rglob("*.py"))]
    if place in TOOLS:
        return [(path, path.relative_to(REPOSITORY).as_posix()) for path in sorted((REPOSITORY / place).rglob("*.py"))]
    return [(REPOSITORY / place, place)]


@pytest.mark.parametrize("place", [*ROOMS, *TOOLS, *PAGES])
def test_what_users_read_is_in_standard_terms(place):
    found = [sentence for path, name in files(place) for sentence in found_in(path, name)]
    assert not found, "\n".join(found)


def test_every_exception_is_needed():
    for (name, words), why in RIGHT.items():
        text = (REPOSITORY / "gradlens" / name).read_text(encoding="utf-8")
        assert words in text, f"{name} has no longer {words!r} ({why})"
        assert any(re.search(pattern, words, re.IGNORECASE) for pattern in DIALECT)


OLD = '''"""What each block is told."""

x = 1  # as one process would have made it
raise ValueError("nothing was heard of rank 1")
y = f"the documents give {x}"
'''


def test_the_old_words_are_found_in_docstrings_comments_and_messages(tmp_path):
    (tmp_path / "old.py").write_text(OLD, encoding="utf-8")
    lines = [found.split(":")[1] for found in found_in(tmp_path / "old.py", "old.py")]
    assert sorted(lines) == ["1", "3", "4", "5"]
    (tmp_path / "page.md").write_text("# Locking\n\nA block hears what is said.\n\nThe documents say so.\n", encoding="utf-8")
    assert len(list(found_in(tmp_path / "page.md", "page.md"))) == 2


# first lines that are printed as they are: `gradlens list models` shows what a builder builds, `gradlens check` what a check requires
PRINTED = {*(build.__name__ for build in MODELS.values() if hasattr(build, "__name__")), "vgg"}
PRINTED |= {check.__name__ for check in METHOD_CHECKS.values()}
NOUN = re.compile(
    r"(?:The|A|An|What|Whether|Which|How|Where|Why|Who|Of|All|Its|Their|With|As|This|That|These|No|Nats|Names|Copies|Updates|Some|One|Two|If)"
    r"(?:\s|$)|\[|``|\(|[a-z]"
)


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


@pytest.mark.parametrize("room", ROOMS)
def test_the_first_line_of_a_function_is_imperative(room):
    """The first line of a function's docstring begins with a verb: none of the ways in which a noun phrase or a clause begins."""
    wrong = []
    for path, name in files(room):
        for node in functions(ast.parse(path.read_text(encoding="utf-8"))):
            if (text := ast.get_docstring(node)) and NOUN.match(text) and node.name not in PRINTED:
                wrong.append(f"{name}:{node.lineno}: {text.splitlines()[0]}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("line", ["Whether it is.", "[N] bool.", "``depth`` blocks.", "h [N] -> [N].", "As :meth:`learn`.", "Of it."])
def test_noun_phrases_are_found(line):
    assert NOUN.match(line)
    assert not NOUN.match(f"Return {line}")
