"""Figures in the width of a column: so many inches wide, letters of 8 points or more, everything inside."""

import io
import warnings

import pytest
from made_runs import made
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from gradlens.reporting.aggregate import curve_points, final_values, layer_points
from gradlens.reporting.figure_width import SMALLEST, set_width
from gradlens.reporting.heat_map import heat_map
from gradlens.reporting.style import save_figure
from gradlens.reporting.training_figures import curve_figure, figure_set, of_methods, over_training
from gradlens.runtime.errors import InputError

RUNS = [made("bp"), made("dgl", accuracy=0.4), made("dni", cosines=(0.1, 0.2, -0.3, 1.0, 1.0), accuracy=0.8)]


def drawn(name):
    """One of the standard figures of the runs."""
    if name == "test_accuracy":
        return curve_figure(curve_points(RUNS), "test", "accuracy", title="digits")
    if name == "cosine_heat_map":
        return heat_map(final_values(RUNS, "cosine"), "cosine", title="digits")
    return over_training(layer_points(RUNS, "cosine"), "cosine", title="digits")


@pytest.mark.parametrize("width", [3.3, 6.9])
@pytest.mark.parametrize("name", ["cosine_over_training", "cosine_heat_map", "test_accuracy"])
def test_a_figure_has_the_width_and_letters_inside_it(name, width):
    figure = drawn(name)
    set_width(figure, width)
    renderer = FigureCanvasAgg(figure).get_renderer()
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a layout that collapses
        figure.savefig(buffer, format="png", dpi=figure.dpi)
    assert Image.open(buffer).width == pytest.approx(figure.dpi * width, abs=1)
    texts = [t for t in figure.findobj(Text) if t.get_text() and t.get_visible()]
    assert min(t.get_fontsize() for t in texts) >= SMALLEST
    for ax in figure.axes:
        box = ax.get_tightbbox(renderer)
        assert box.x0 >= -1, ax.get_title(loc="left")
        assert box.x1 <= figure.bbox.x1 + 1, ax.get_title(loc="left")
        assert ax.get_window_extent().height > 40


def test_panels_go_below_each_other_where_there_is_no_room():
    wide, narrow = drawn("cosine_over_training"), drawn("cosine_over_training")
    set_width(narrow, 3.3)
    rows = [{ax.get_subplotspec().rowspan.start for ax in figure.axes} for figure in (wide, narrow)]
    assert (len(rows[0]), len(rows[1])) == (1, 3)
    assert narrow.get_figheight() > wide.get_figheight()


def test_layers_and_methods_are_chosen_and_unknown_ones_refused():
    found = figure_set(RUNS, ["block*"]).drawn
    assert {row.layer for row in found["cosine_heat_map"][1]} == {"block1.conv", "block2.conv", "block3.conv"}
    assert found["test_accuracy"][1]
    with pytest.raises(InputError, match=r"--layers blok\*: fits none of block1\.conv, "):
        figure_set(RUNS, ["blok*"])
    assert of_methods(RUNS, ["bp", "dni"]) == [RUNS[0], RUNS[2]]
    assert of_methods(RUNS, []) == RUNS
    with pytest.raises(InputError, match="no run of 'dfa' among those given, which are of bp, dgl, dni"):
        of_methods(RUNS, ["dfa"])


def test_a_pdf_embeds_its_letters_and_has_no_date(tmp_path):
    pdf, _ = save_figure(drawn("cosine_heat_map"), final_values(RUNS, "cosine"), tmp_path, "map", formats=("pdf",), width=3.3)
    content = pdf.read_bytes()
    assert content.startswith(b"%PDF")
    assert b"/FontFile2" in content
    assert b"CreationDate" not in content
