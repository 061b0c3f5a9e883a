"""Pictures can be read at the width at which pages show them, and say what the numbers say. Nothing is trained here."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from analyses import overview
from analyses.figures import rule_figures
from analyses.figures.filter_figures import gabor_image
from analyses.figures.representation_figures import class_gap, likeness_message
from analyses.overview import CONTROL
from gradlens.analysis.gabor import Gabor, fit_gabor
from gradlens.methods import METHODS
from gradlens.reporting.aggregate import FinalValue
from gradlens.reporting.representations import RdmRow, SimilarityCell
from gradlens.reporting.style import DPI, LARGEST

FIGURES = Path(__file__).resolve().parents[2] / "figures"
WIDEST = 8.0  # inches: a page shows them 7.2 to 8 inches wide
SMALLEST = 8.0  # points at that width
WIDE = {"first_layer_filters/stem7_change": 8.7, "inpainting/inpainting": 9.6}  # pixels that are not stored: the next run draws them
LAYERS = ("block1.conv", "block2.conv", "block3.conv", "top.hidden", "top.out")


def problems(figure: Figure) -> list[str]:
    """What cannot be read: texts that are too small where the figure is shown, cut off, or one on the other."""
    figure.draw_without_rendering()
    beyond = set()  # ticks outside an axis' ends, which are not drawn
    for ax in figure.axes:
        for axis, (low, high) in ((ax.xaxis, sorted(ax.get_xlim())), (ax.yaxis, sorted(ax.get_ylim()))):
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            beyond |= {label for t in ticks if not low <= t.get_loc() <= high for label in (t.label1, t.label2)}
    texts = [t for t in figure.findobj(Text) if t.get_text().strip() and t.get_visible() and t not in beyond]
    shown = min(1.0, WIDEST / figure.get_figwidth())
    found = [f"small: {t.get_text()}" for t in texts if t.get_fontsize() * shown < SMALLEST]
    boxes = [(t, Text.get_window_extent(t)) for t in texts]  # of an annotation without its line
    found += [
        f"cut: {t.get_text()}"
        for t, box in boxes
        if box.x0 < -1 or box.x1 > figure.bbox.x1 + 1 or box.y0 < -1 or box.y1 > figure.bbox.y1 + 1
    ]
    for (a, box), (b, other) in itertools.combinations(boxes, 2):
        width = min(box.x1, other.x1) - max(box.x0, other.x0)
        height = min(box.y1, other.y1) - max(box.y0, other.y0)
        if width > 1 and height > 3:  # pixels: the space around letters may overlap
            found.append(f"{a.get_text()} on {b.get_text()}")
    return found


def test_the_check_finds_what_cannot_be_read():
    figure = Figure(figsize=(8, 4))
    for x, y, size in ((0.1, 0.5, 5), (0.98, 0.2, 10), (0.4, 0.8, 10), (0.41, 0.8, 10)):
        figure.text(x, y, "a name", fontsize=size)
    kinds = [text.split(":")[0] for text in problems(figure)]
    assert kinds == ["small", "cut", "a name on a name"]


@pytest.fixture(params=range(3))
def results(request):
    """What a results file of 27 rules and ten seeds holds, as far as it is drawn."""
    rng = np.random.default_rng(request.param)
    table, finals = [], {}
    for name in METHODS:
        mean = 38 if name == CONTROL else rng.normal(50, 4)
        finals[name] = list(rng.normal(mean, 1, 10))
        cosines = {layer: [None] * 3 for layer in LAYERS if name == CONTROL and layer.startswith("block")}
        for layer in (layer for layer in LAYERS if layer not in cosines and name != "greedy"):
            value = 1.0 if name == "bp" else float(rng.uniform(-0.2, 1))
            cosines[layer] = [value, value - 0.05, value + 0.05]
        table.append({"method": name, "final": [mean / 100, mean / 100 - 0.01, mean / 100 + 0.01], "cosine": cosines})
    settings = {"limit": 6_000, "width": 16, "epochs": 5}
    assert len(table) >= 27
    return {"settings": settings, "table": table, "values": {"final accuracy": finals}}


def test_figures_of_27_rules_and_ten_seeds_can_be_read(results):
    setting = rule_figures.setting_of("CIFAR-10", results["settings"])
    rows = rule_figures.placed(results["values"]["final accuracy"])
    cosines = rule_figures.cosines_of(results["table"], 3)
    drawn = [rule_figures.accuracies(rows, setting), rule_figures.cosine_map(cosines, setting)]
    for figure in drawn:
        assert problems(figure) == []
        assert figure.get_figwidth() <= WIDEST
    standings = overview.standings(results)
    figure = overview.nearness_and_accuracy(standings, setting)
    assert {text.get_text() for text in figure.axes[0].texts} >= {row.method for row in standings if row.method != CONTROL}
    assert [found for found in problems(figure) if " on " not in found] == []


def test_titles_say_what_the_numbers_say(results):
    standings = {row.method: row for row in overview.standings(results)}
    others = [row for row in standings.values() if row.method not in (CONTROL, "bp")]
    ranks = np.corrcoef(*(np.argsort(np.argsort(values)) for values in zip(*((r.cosine, r.accuracy) for r in others), strict=True)))[0, 1]
    assert overview.rank_correlation(list(standings.values())) == pytest.approx(ranks)
    rising = [row._replace(accuracy=row.cosine) for row in standings.values()]
    assert "rank correlation 1.0" in overview.message(rising)
    assert "correlation" not in overview.message([row._replace(accuracy=-row.cosine) for row in rising])
    cosines = rule_figures.cosines_of(results["table"], 3)
    lowest = {name: min(row.mean for row in cosines if row.label == name) for name in METHODS if name not in ("bp", CONTROL, "greedy")}
    assert f": {max(lowest, key=lowest.__getitem__)} (" in rule_figures.nearest(cosines)


def test_of_rules_in_words():
    rows = rule_figures.placed({"bp": [50.0], "dgl": [49.0], "fa": [40.0], CONTROL: [42.0]})
    assert rule_figures.accuracy_message(rows) == "1 of 2 rules end above backprop or within 2 points of it; fa below untrained blocks"
    cosines = [
        FinalValue(name, "a", "weight", "cosine", value, value, value, 1, 0) for name, value in (("bp", 1), ("kp", 0.9), ("fa", 0.1))
    ]
    assert rule_figures.nearest(cosines).endswith("kp (0.90 or more), fa (0.10 or more)")


def test_classes_are_apart_by_the_mean_over_pairs():
    rng = np.random.default_rng(0)
    matrix, labels = rng.uniform(size=(6, 6)), [0, 0, 1, 1, 1, 2]
    matrix = (matrix + matrix.T) / 2
    rows = [RdmRow("bp s0", "top", i, label, " ".join(map(str, matrix[i]))) for i, label in enumerate(labels)]
    same = np.equal.outer(labels, labels)
    off = ~np.eye(6, dtype=bool)
    assert class_gap(rows) == pytest.approx(matrix[~same].mean() - matrix[same & off].mean())


def test_likeness_is_the_mean_of_the_diagonal():
    values = {("a", "a"): 0.9, ("a", "b"): 0.1, ("b", "a"): 0.2, ("b", "b"): 0.5}
    cells = [SimilarityCell("bp s0", "dni s1", a, b, value, 0.0) for (a, b), value in values.items()]
    assert likeness_message(cells).replace("\u00a0", " ").endswith("0.70 to dni s1")


def test_the_drawn_gabor_is_the_one_that_was_fitted():
    wanted = Gabor(1.0, 2.0, 0.5, -0.3, 35.0, 0.21, 70.0, 1.6, 2.0)
    patch = gabor_image(wanted, 7)
    found = fit_gabor(patch)
    assert found.r2 > 0.999
    np.testing.assert_allclose(gabor_image(found, 7), patch, atol=0.05)


@pytest.mark.skipif(not FIGURES.is_dir(), reason="figures are not in the source distribution")
def test_stored_pictures_are_no_wider_than_pages_and_no_larger_than_300_kb():
    for path in FIGURES.rglob("*.png"):
        assert path.stat().st_size <= LARGEST, path
        name = path.relative_to(FIGURES).with_suffix("").as_posix()
        width = Image.open(path).width / DPI
        assert width <= WIDE.get(name, WIDEST) + 0.01, f"{name}: {width:.2f} inches"
    assert not list(FIGURES.rglob("*.svg"))
