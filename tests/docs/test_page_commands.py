"""Every command of the documentation runs, in a short form; every Python block that needs nothing else runs as it stands.

A page is run from top to bottom in an empty folder. Files that a page asks to be saved are those of blocks below a comment
``<!-- file: NAME -->`` or ``<!-- example: … as NAME -->``. What a comment before a block may say to this test:

- ``<!-- test: --epochs 3 -->``: append these to the block's commands instead of what ``SHORT`` says;
- ``<!-- test: exit 1 -->``: this exit status is wanted;
- ``<!-- test: skip, why -->``: the block is not run.
"""

from __future__ import annotations

import csv
import glob
import re
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image

from gradlens.methods import METHODS
from tools.docs.page_blocks import blocks_of, commands_of
from tools.docs.rules import _trial

ROOT = Path(__file__).parents[2]
NAMED_DATA = re.compile(r"\b(cifar100|cifar10|mnist|fashion-mnist|svhn|stl10)\b")
TRAINING = "--epochs 1 --limit 64 --limit-test 32 --batch-size 32 --quiet"
SHORT = {  # command -> what makes it short
    "train": TRAINING,
    "compare-gradients": TRAINING,
    "memorize": TRAINING,
    "bench": "--width 4 --batch-size 8 --rounds 1",
    "probe": "--train-images 32 --test-images 32",
    "representations": "--images 60 --information-steps 2",
    "timeline": "--width 4 --batch-size 8",
}
NEEDS_MORE = ("server", "trainer", "Trainer(", "RUN_DIR", "COMPARISON", "…", "runs/", "comparisons/")  # in Python: no block of its own


def shortened(words: list[str], asked: str) -> list[str]:
    """A command in its short form: data that would be fetched are the digits, networks narrow, trainings one epoch."""
    words = [NAMED_DATA.sub("digits", word) for word in words if word != "--download"]
    extra = shlex.split(asked) if asked and not asked.startswith("exit") else shlex.split(SHORT.get(words[0], ""))
    if words[0] in ("train", "compare-gradients", "memorize") and "--model" not in words and "--config" not in words and not asked:
        extra += ["--width", "4"]
    again = words[0] in ("train", "compare-gradients") and "--resume" not in words and not asked  # two of a page may be one in short
    return [*words, *extra, *(["--overwrite"] if again else [])]


def found(words: list[str]) -> list[str]:
    """Words with names of runs and comparisons put in: patterns, ``…``, ``RUN_DIR`` and ``COMPARISON`` are what lies in this folder."""
    put: list[str] = []
    for word in words:
        pattern = {"RUN_DIR": "runs/bp-*", "RUN_DIR...": "runs/bp-*", "COMPARISON": "comparisons/*"}.get(word, word).replace("…", "*")
        paths = sorted(glob.glob(pattern)) if "*" in pattern else []
        put += paths if word == pattern or word == "RUN_DIR..." else paths[:1]
        put += [] if paths else [word]
    return put


def pages() -> dict[str, str]:
    """All pages: those that lie in docs, the README, and of each rule the command that its generated page shows."""
    written = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]
    made = ("changelog.md", "gallery.md", "their-figures.md", "contributing.md")  # by tools.docs, if it has run here
    kept = [p for p in written if not {"rules", "reference"} & set(p.relative_to(ROOT).parts[1:-1]) and p.name not in made]
    staged = f"<!-- test: {TRAINING.replace('--epochs 1', '--epochs 3')} --width 4 -->\n"  # a stage needs an epoch
    generated = {f"rules/{name}": f"{staged if rule.in_stages else ''}```sh\n{_trial(name, rule)}\n```\n" for name, rule in METHODS.items()}
    return {p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8") for p in kept} | generated


PAGES = pages()
WITH_COMMANDS = [name for name, page in PAGES.items() if any(b.language == "sh" and list(commands_of(b)) for b in blocks_of(page))]

WITH_PYTHON = [name for name, page in PAGES.items() if name != "README.md" and any(b.language == "python" for b in blocks_of(page))]


def test_blocks_are_found_with_what_is_written_about_them():
    page = "<!-- file: a.py -->\n```python\nx = 1\n```\n\n<!-- test: exit 1 -->\n```sh\ngradlens check a.py:A  # fails\nls\n```\n"
    saved, shell = blocks_of(page)
    assert (saved.file, saved.text, shell.asked) == ("a.py", "x = 1\n", "exit 1")
    assert list(commands_of(shell)) == [["check", "a.py:A"]]
    assert shortened(["train", "bp", "--data", "cifar10", "--download"], "")[:4] == ["train", "bp", "--data", "digits"]
    assert shortened(["train", "bp"], "--epochs 3") == ["train", "bp", "--epochs", "3"]


@pytest.fixture
def folder(tmp_path, own_code_forgotten, few_pixels, monkeypatch):
    """An empty folder with some pictures in ``pictures``, and one thread."""
    monkeypatch.setenv("COLUMNS", "100")
    torch.set_num_threads(1)
    for i in range(96):
        path = tmp_path / "pictures" / ("train" if i % 3 else "test") / f"class{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (16, 16), 5 * i % 256).save(path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_commands_run(name, folder, program):
    page, made = PAGES[name], set[str]()
    if re.search(r"RUN_DIR|COMPARISON|runs/|comparisons/|figures ", page):  # what earlier pages have made
        program("compare-gradients", *shlex.split(f"bp dgl dni cdni {TRAINING} --width 4 --keep-checkpoints 1 --out comparisons/first"))
        program("train", *shlex.split(f"bp {TRAINING} --width 4"))
    scope: dict[str, object] = {}
    for block in blocks_of(page):
        if block.file:
            (folder / block.file).write_text(block.text, encoding="utf-8")
        elif block.language == "python" and ".safetensors" in page:  # whose commands read what these blocks store
            exec(compile(block.text, name, "exec"), scope)
        if block.language != "sh" or block.asked.startswith("skip"):
            continue
        for words in (shortened(typed, block.asked) for typed in commands_of(block)):
            if shlex.join(words) in made:
                continue
            made.add(shlex.join(words))
            status, _, err = program(*found(words))
            wanted = {int(block.asked.removeprefix("exit "))} if block.asked.startswith("exit") else {0, 1} if words[0] == "doctor" else {0}
            assert status in wanted, f"{shlex.join(words)}\n{err}"


def numbers(text: str) -> list[float]:
    """All numbers of a text."""
    return [float(found.replace("−", "-")) for found in re.findall(r"(?<![\w.])[−-]?\d+(?:\.\d+)?", text)]


@pytest.mark.parametrize("name", WITH_PYTHON)
def test_python_runs(name, folder, capsys):
    """The blocks of a page run one after the other in one namespace, but those that read runs or are saved as files.

    Where the block after one shows what it prints, the numbers are those, to 0.02: another version of torch may round otherwise.
    """
    scope: dict[str, object] = {}
    blocks = blocks_of(PAGES[name])
    for block, after in zip(blocks, [*blocks[1:], None], strict=True):
        runs = block.language == "python" and not block.file and not block.asked.startswith("skip")
        if runs and not any(word in block.text for word in NEEDS_MORE):
            capsys.readouterr()
            exec(compile(block.text, name, "exec"), scope)
            if after and not after.language and "print(" in block.text:
                assert numbers(capsys.readouterr().out) == pytest.approx(numbers(after.text), abs=0.02)


def test_the_first_layer_s_cosine_falls_with_the_size_of_micro_batches(folder):
    name = "docs/how-to/accumulation-bf16-clipping.md"
    stated = re.search(r"first layer: (\S+) with (\d+) images, (\S+) with (\d+)\)", " ".join(PAGES[name].split()))
    first, second, *_ = (block.text for block in blocks_of(PAGES[name]) if block.language == "python")
    scope: dict[str, object] = {}
    exec(compile(first + second.partition("whole = ")[0], name, "exec"), scope)
    model, compare = scope["model"], scope["gradlens"].compare
    for cosine, size in ((stated[1], stated[2]), (stated[3], stated[4])):
        gradients = scope["accumulated"](int(size))
        rows = compare(model, scope["cross_entropy"](model(scope["images"]), scope["labels"]), gradients)
        found = next(row.value for row in rows if (row.layer, row.kind, row.quantity) == ("0", "weight", "cosine"))
        assert found == pytest.approx(float(cosine), abs=0.002)


@pytest.mark.slow
def test_lightning_logs_what_the_page_shows(folder):
    pytest.importorskip("lightning")
    name = "docs/tutorials/own-loop.md"
    code = [block.text for block in blocks_of(PAGES[name]) if block.language == "python"]
    exec(compile(code[0] + next(text for text in code if "Trainer(" in text), name, "exec"), {})
    shown = re.findall(r"^\| (\d+) \| (\d\.\d+) \| (\d\.\d+) \|$", PAGES[name], re.M)
    with (folder / "logs" / "lightning_logs" / "version_0" / "metrics.csv").open() as file:
        logged = {row["step"]: row for row in csv.DictReader(file) if row.get("cosine/activation/net.conv1")}
    assert len(shown) == 5
    for step, *values in shown:
        found = [float(logged[step][f"{quantity}/activation/net.conv1"]) for quantity in ("cosine", "norm_ratio")]
        assert found == pytest.approx([float(value) for value in values], abs=0.02)
