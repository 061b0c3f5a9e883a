"""A figure's title states a result only where the rows that are drawn support it: the stored rows, and rows that say the opposite."""

import ast
import csv
import math
from pathlib import Path

import pytest

from analyses import (
    dni_target,
    dni_unlocked,
    feedback_tables,
    first_layer_filters,
    gradient_similarity,
    iteration1,
    linear_separability,
    overview,
    predicting,
    random_labels,
    synthetic_gradient_scale,
    synthetic_theory_depth,
)
from analyses.figures import feedback_figures, provable_figures, redrawn, rule_figures, synthetic_gradient_figures
from analyses.theory import synthetic_theory_linear, synthetic_theory_plane
from gradlens.reporting.aggregate import CurvePoint, LayerPoint
from gradlens.reporting.memorization import BlockPoint
from gradlens.runtime.csv_tables import read_table
from gradlens.runtime.text_files import read_json

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "figures"
stored = pytest.mark.skipif(not FIGURES.is_dir(), reason="figures are not in the source distribution")


def rows(name, kind):
    return read_table(FIGURES / f"{name}.csv", kind)


def results(name):
    return read_json(FIGURES / name / "results.json")


def curve(split, quantity):
    chosen = next(c for c in iteration1.CURVES if (c.split, c.quantity) == (split, quantity))
    return lambda: redrawn.curve_rows(FIGURES / "iteration1", chosen)


def readings():
    return [feedback_figures.Reading(**row) for row in results("feedback_angles")["readings"]]


def variants(name):
    """Stored rows of the two extremes of dni_target, as they are called in the picture."""
    return [r._replace(label=dni_target.NAMES[r.label]) for r in rows(f"dni_target/{name}", LayerPoint) if r.label in dni_target.NAMES]


def gaps():
    found = rows("synthetic_theory/implied_gap", synthetic_theory_plane.GapRow)
    return {(row.labelling, row.update): row.mean for row in found}


SMALLER, LARGER, FLAT = (lambda v: -v), (lambda v: 1e3 - v), (lambda v: 50.0)
TITLES = {  # name -> (title of rows, the stored rows, the opposite of a value of theirs)
    "accuracies": (rule_figures.accuracies_title, lambda: rows("all_methods/accuracies", rule_figures.Placed), LARGER),
    "turning": (rule_figures.turning_title, lambda: rows("all_methods/feedback_transpose", LayerPoint), LARGER),
    "filters": (first_layer_filters.gabor_title, lambda: rows("first_layer_filters/gabor_shares", first_layer_filters.GaborShare), LARGER),
    "separability": (
        linear_separability.rising_title,
        lambda: rows("linear_separability/separability_by_depth", linear_separability.Point),
        LARGER,
    ),
    "depth": (feedback_tables.depth_title, lambda: rows("feedback_tables/depth", feedback_figures.DepthPoint), SMALLER),
    "race": (feedback_figures.race_title, lambda: rows("feedback_angles/loss", feedback_figures.RacePoint), FLAT),
    "sweep": (provable_figures.sweep_title, lambda: rows("provable/sweep", provable_figures.LearnerPoint), SMALLER),
    "scale": (
        synthetic_gradient_scale.accuracy_title,
        lambda: rows("synthetic_gradient_scale/accuracy", synthetic_gradient_figures.ArmRow),
        LARGER,
    ),
    "unlocked": (dni_unlocked.unlocked_title, lambda: rows("dni_unlocked/accuracy", synthetic_gradient_figures.ArmRow), LARGER),
    "layers": (synthetic_theory_depth.depth_title, lambda: rows("synthetic_theory/by_depth", synthetic_theory_depth.DepthRow), LARGER),
    "start": (iteration1.started, curve("test", "accuracy"), FLAT),
    "test loss": (iteration1.fell, curve("test", "loss"), SMALLER),
    "training loss": (iteration1.stayed_above, curve("train", "loss"), SMALLER),
    "pointing": (
        iteration1.pointing,
        lambda: [r for r in rows("iteration1/cosine_over_training", LayerPoint) if r.quantity == "cosine"],
        SMALLER,
    ),
    "norm ratio": (iteration1.too_long, lambda: rows("iteration1/norm_ratio_over_training", LayerPoint), LARGER),
    "units": (dni_target.explained, lambda: [r for r in variants("explained_variance_over_training") if math.isfinite(r.mean)], SMALLER),
    "first lengths": (dni_target.lengths, lambda: variants("norm_ratio_over_training"), LARGER),
    "similarity": (
        gradient_similarity.similarity_title,
        lambda: rows("gradient_similarity/gradient_similarity", gradient_similarity.Point),
        LARGER,
    ),
    "fitted": (random_labels.fitted_title, lambda: rows("random_labels/random_labels", CurvePoint), SMALLER),
    "blocks": (random_labels.blocks_title, lambda: rows("partly_random/partly_random_by_block", BlockPoint), SMALLER),
    "explained": (iteration1.explained, lambda: rows("iteration1/explained_variance_over_training", LayerPoint), SMALLER),
}
STATED = {  # names of the titles above -> words of the result
    "accuracies": "within five points", "turning": "turns to the weights", "filters": "opposite of the paper",
    "separability": "reads more", "depth": "fall behind", "race": "as fast as", "sweep": "finds", "scale": "close most",
    "unlocked": "stays below", "layers": "costs nothing", "start": "starts as", "test loss": "falls alike", "training loss": "lies above",
    "pointing": "at random", "norm ratio": "times too long", "explained": "less than nothing",
    "units": "end below 0", "first lengths": "hundreds of times",
    "similarity": "stay far", "fitted": "faster and further", "blocks": "upper blocks",
}  # fmt: skip


@stored
@pytest.mark.parametrize("name", TITLES)
def test_a_title_states_what_the_stored_rows_support_and_no_more(name):
    title, read, opposite = TITLES[name]
    found = read()
    assert STATED[name] in title(found)
    turned = [row._replace(mean=opposite(row.mean), **({"low": math.nan} if hasattr(row, "low") else {})) for row in found]
    assert STATED[name] not in title(turned)


@stored
def test_titles_of_other_rows():
    found = overview.standings(results("all_methods"))
    assert "the more accurate" in overview.message(found)
    assert "the more accurate" not in overview.message([r._replace(accuracy=-r.accuracy) for r in found])
    assert "ten times wider" in feedback_figures.angles_title(readings())
    assert "ten times" not in feedback_figures.angles_title([r._replace(ours=r.figure) for r in readings()])
    assert "ten times" not in feedback_figures.angles_title([])
    with (FIGURES / "synthetic_gradient_scale" / "lengths.csv").open(encoding="utf-8") as file:
        kinds = {"width": int, "batch": int, "below": int, "updates": int, "ratio": float, "seeds": int}
        table = [{name: kinds.get(name, str)(value) for name, value in row.items()} for row in csv.DictReader(file)]
    lengths = [synthetic_gradient_figures.LengthRow(**row) for row in table]
    shown = [r for r in lengths if r.width == synthetic_gradient_scale.FIXED_WIDTH]
    assert "in proportion to N" in synthetic_gradient_figures.lengths_title(shown)
    assert "in proportion" not in synthetic_gradient_figures.lengths_title([r._replace(ratio=r.ratio**2) for r in shown])


@stored
def test_titles_of_synthetic_theory():
    plane, linear = synthetic_theory_plane, synthetic_theory_linear
    points = rows("synthetic_theory/plane_accuracy", plane.PlanePoint)
    assert "less in a wider net" in plane.plane_title(points)
    assert "less in" not in plane.plane_title([r._replace(accuracy=1.0) for r in points])
    assert "leaves it again" in plane.gap_title(gaps())
    assert "leaves it" not in plane.gap_title(dict.fromkeys(gaps(), 0.5))
    curves = rows("synthetic_theory/implied_loss", plane.ImpliedPoint)
    assert "leaves it again" in plane.gap_title(plane.gaps_of(curves))
    assert set(plane.gaps_of([r._replace(implied=r.true) for r in curves]).values()) == {0.0}
    losses = rows("synthetic_theory/convergence", linear.LossPoint)
    assert "stay above it" in linear.convergence_title(losses)
    assert "stay above" not in linear.convergence_title([r._replace(above_optimum=1.0) for r in losses])
    rest = [linear.Rest(**row) for row in results("synthetic_theory")["rest"]]
    assert "only at critical points" in linear.rest_title(rest)
    assert "only at" not in linear.rest_title([r._replace(true=1.0) for r in rest])


@stored
def test_titles_of_the_simulation():
    values = results("predicting")["values"]
    assert "as the square" in predicting.growth_title(values)
    assert "saves labels" in predicting.labels_title(values)
    turned = {metric: {group: [-v for v in each] for group, each in groups.items()} for metric, groups in values.items()}
    assert "as the square" not in predicting.growth_title(turned)
    assert "saves labels" not in predicting.labels_title(turned)


def test_the_gap_of_a_picture_is_that_of_its_formula():
    """Two labels, implied losses half of the true ones about their means: half the spread apart; points beyond the answers do not count."""
    found = [
        synthetic_theory_plane.ImpliedPoint("random", label, 1, at, true, true / 2 + 3, 0.0, 2.0)
        for label in (0, 1)
        for at, true in ((-1.0, 50.0 * label), (0.0, 1.0), (1.0, 4.0 + label), (2.0, 3.0))
    ]
    assert synthetic_theory_plane.gaps_of(found)["random", 1] == pytest.approx(0.5)


# ------------------------------------------------------------------------------------------------------- no typed result

DEFINITIONS = {  # titles that are typed: what a picture shows by construction, or what it is of
    "Backprop's workers wait for all above, dgl's for the block below only",  # the schedules that are simulated
    "Cosine of the error signal with the true one at each block's output",
    "Fine-tuning from each start",
    "Fine-tuning and distilling by width",
    "What a linear probe reads after each way of filling in",
    "Gradients of local rules beside the end-to-end gradient of the same loss",
}
TITLED = {"head": 1, "_head": 1, "rows_figure": 1, "lines_figure": 1, "heads_figure": 2, "pairs_figure": 1, "depth_figure": 1,
          "accuracy_figure": 3, "panel_figure": 4, "label_figure": 4, "labelled_curves": 2,
          "Panels": 2, "Curve": 2, "suptitle": 0}  # fmt: skip  # function -> place of its title


def typed(node, names):
    """The strings that an expression may be, as far as they are written in the file; those of a conditional are stated by a value."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.Name):
        return [text for value in names.get(node.id, ()) for text in typed(value, {})]
    if isinstance(node, ast.Subscript):
        return typed(node.value, names)
    if isinstance(node, ast.Tuple):
        return [text for each in node.elts for text in typed(each, names)]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "join":  # of lines; the title is the first
        (lines,) = [names[arg.id][0] if isinstance(arg, ast.Name) and arg.id in names else arg for arg in node.args]
        return typed(lines.elts[0], names) if isinstance(lines, ast.Tuple) else []
    return []


def titles_typed(source):
    """Titles that a module types instead of making them of what it draws."""
    tree = ast.parse(source)
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    names.setdefault(target.id, []).append(node.value)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            place = TITLED.get(name)
            if place is not None and len(node.args) > place:
                found += typed(node.args[place], names)
    return found


def test_typed_titles_are_seen():
    assert titles_typed('head(figure, "dgl wins", "setting")') == ["dgl wins"]
    assert titles_typed('T = "dgl wins"\nhead(figure, T)\nhead(figure, title(rows))\nhead(figure, f"{x} %")') == ["dgl wins"]
    assert titles_typed('lines = ("a", title(rows))\nfigure.suptitle("\\n".join(lines))') == ["a"]


@pytest.mark.parametrize("path", sorted((ROOT / "analyses").rglob("*.py")), ids=lambda path: path.stem)
def test_no_title_types_a_result(path):
    found = titles_typed(path.read_text(encoding="utf-8"))
    assert not [text for text in found if text not in DEFINITIONS]


def test_every_definition_is_a_title():
    """A title that is gone leaves the list."""
    assert {text for path in (ROOT / "analyses").rglob("*.py") for text in titles_typed(path.read_text(encoding="utf-8"))} >= DEFINITIONS
