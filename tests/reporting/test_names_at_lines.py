"""Names beside lines and markers: moved as little as needed, and none hides another."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Text
from scipy.optimize import minimize

from analyses.figures.drawing import Marker, name_markers
from gradlens.reporting.axes import label_ends, spread
from gradlens.reporting.style import text_width, wrapped

places = st.lists(st.floats(0, 1), min_size=2, max_size=6)


@given(places)
def test_labels_are_a_gap_apart_and_keep_their_order(given_places):
    moved = spread(given_places, 0.1)
    order = sorted(range(len(moved)), key=lambda i: given_places[i])
    assert all(moved[b] - moved[a] >= 0.1 - 1e-9 for a, b in itertools.pairwise(order))


@pytest.mark.parametrize("seed", range(5))
def test_labels_are_moved_no_more_than_an_optimiser_moves_them(seed):
    wanted = np.sort(np.random.default_rng(seed).uniform(size=5))
    gaps = [{"type": "ineq", "fun": lambda y, i=i: y[i + 1] - y[i] - 0.15} for i in range(4)]
    best = minimize(lambda y: ((y - wanted) ** 2).sum(), wanted, constraints=gaps, bounds=[(0, 1)] * 5, method="SLSQP")
    assert spread(list(wanted), 0.15, 0, 1) == pytest.approx(list(best.x), abs=1e-4)


def test_labels_with_room_stay_and_too_many_reach_below():
    assert spread([3.0, 1.0, 9.0], 2.0) == [3.0, 1.0, 9.0]
    assert spread([], 1.0) == []
    crowded = spread([0.5] * 4, 0.5, 0, 1)
    assert max(crowded) == 1
    assert min(crowded) == pytest.approx(-0.5)


def test_a_line_that_ends_early_is_named_where_it_ends():
    figure = Figure()
    ax = figure.subplots()
    ax.plot([0, 10], [0, 1])
    figure.draw_without_rendering()
    label_ends(ax, {"whole": (10, 0.9, "black"), "short": (2, 0.1, "black"), "also short": (2, 0.1, "black")})
    at = {text.get_text(): text.get_position() for text in ax.texts}
    assert at["whole"][0] >= 1 > 0.5 > at["short"][0]
    assert at["short"][1] != at["also short"][1]


def boxes(figure):
    """Where names stand; the lines that join them to markers left out."""
    figure.draw_without_rendering()
    return [Text.get_window_extent(text) for ax in figure.axes for text in ax.texts]


def shared(a, b):
    width, height = (min(a.max[i], b.max[i]) - max(a.min[i], b.min[i]) for i in (0, 1))
    return max(0, width) * max(0, height)


@pytest.mark.parametrize("seed", range(5))
def test_names_hide_no_other_name_and_no_marker(seed):
    rng = np.random.default_rng(seed)
    figure = Figure(figsize=(8, 5))
    ax = figure.subplots()
    markers = [Marker(f"rule-{i}", *rng.uniform(size=2), "black") for i in range(27)]
    ax.set(xlim=(-0.1, 1.1), ylim=(-0.1, 1.1))
    figure.draw_without_rendering()
    name_markers(ax, markers)
    drawn = [box.shrunk(0.95, 0.8) for box in boxes(figure)]  # letters, without the space around them
    assert sum(shared(a, b) > 0 for a, b in itertools.combinations(drawn, 2)) == 0
    points = [ax.transData.transform((m.x, m.y)) for m in markers]
    assert not any(box.contains(*point) for box in drawn for point in points)


def test_lines_of_a_title_are_no_wider_than_asked_and_keep_all_words():
    text = "Nearest to the true gradient in every layer: overlap\u00a0(0.91), kp\u00a0(0.90)"
    lines = wrapped(text, 2.5)
    assert " ".join(lines) == text
    assert max(map(text_width, lines)) <= 2.5
    assert any("overlap\u00a0(0.91)," in line for line in lines)
