"""Tables to figures: what is drawn is what the table says; files are small and the same each time."""

import csv
import doctest
import io
import math
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest
from made_runs import made, many
from matplotlib.colors import to_hex
from matplotlib.markers import CARETDOWN
from matplotlib.text import Text
from PIL import Image

from gradlens.gradients.rows import Measurement
from gradlens.reporting import axes
from gradlens.reporting import style as reporting_style
from gradlens.reporting.aggregate import CurvePoint, FinalValue, LayerPoint, layer_points
from gradlens.reporting.heat_map import heat_map
from gradlens.reporting.style import save_figure, styles
from gradlens.reporting.training_figures import curve_figure, figure_set, over_training
from gradlens.runtime.csv_tables import read_csv
from gradlens.runtime.errors import InputError
from gradlens.training.config import make_config
from gradlens.training.run_directory import Metric, Run

CURVES = """label,split,quantity,epoch,mean,low,high,seeds
bp,train,loss,1,1.5,1.4,1.6,3
bp,train,loss,2,0.5,0.4,0.6,3
bp,test,loss,0,2.3,2.2,2.4,3
bp,test,loss,1,0.001,0.0005,0.0015,3
bp,test,accuracy,0,0.1,0.08,0.12,3
bp,test,accuracy,1,0.95,0.94,0.96,3
bp,test,accuracy,2,0.95,0.9,1.0,3
dgl head=mlp,test,accuracy,0,0.1,nan,nan,1
dgl head=mlp,test,accuracy,1,0.8,nan,nan,1
dgl head=mlp,test,accuracy,2,0.9,nan,nan,1
"""
LAYERS = """label,layer,kind,quantity,step,mean,low,high,seeds,dropped
bp,block1.conv,weight,cosine,0,1.0,1.0,1.0,2,0
bp,block1.conv,weight,cosine,10,1.0,1.0,1.0,2,0
bp,top.out,weight,cosine,0,1.0,1.0,1.0,2,0
dni,block1.conv,weight,cosine,0,nan,nan,nan,0,2
dni,block1.conv,weight,cosine,10,-0.45,-0.5,-0.4,2,0
dni,block1.conv,weight,cosine,20,nan,nan,nan,0,2
dni,block1.conv,weight,cosine,30,0.3,nan,nan,1,1
dni,top.out,weight,cosine,0,0.7,0.6,0.8,2,0
dni,block1.conv,weight,norm_ratio,0,0.0,0.0,0.0,2,0
dni,block1.conv,weight,norm_ratio,10,20.0,10.0,30.0,2,0
dni,block1.conv,weight,norm_ratio,20,0.5,-0.1,1.1,2,0
dni,block1,rule,synth_explained_variance,0,-1000000.0,nan,nan,1,0
dni,block1,rule,synth_explained_variance,10,-1.5,nan,nan,1,0
dni,block1,rule,synth_explained_variance,20,0.25,nan,nan,1,0
cdni,block1,rule,synth_explained_variance,0,-3.0,nan,nan,1,0
cdni,block1,rule,synth_explained_variance,10,0.5,nan,nan,1,0
"""
FINALS = """label,layer,kind,quantity,mean,low,high,seeds,dropped
dni,block1.conv,weight,cosine,nan,nan,nan,0,6
dni,top.out,weight,cosine,1.0,1.0,1.0,3,0
bp,block1.conv,weight,cosine,1.0,1.0,1.0,3,0
bp,top.out,weight,cosine,1.0,1.0,1.0,3,0
dgl,block1.conv,weight,cosine,-0.254,-0.3,-0.2,3,0
dgl,block1.conv,weight,norm_ratio,0.002,0.001,0.003,3,0
"""


@pytest.fixture
def table(tmp_path):
    """A reader of the tables above, by way of a file."""

    def read(text, kind):
        (tmp_path / "table.csv").write_text(text)
        return read_csv(tmp_path / "table.csv", kind)

    return read


def line(ax, label):
    (found,) = [artist for artist in ax.get_lines() if artist.get_label().split(":")[0] == label]
    return found


def same(drawn, wanted):
    """Whether two sequences are equal, NaN included."""
    return [*map(repr, map(float, drawn))] == [*map(repr, map(float, wanted))]


# ------------------------------------------------------------------------------------------------------------- curves


@pytest.mark.parametrize(("split", "quantity"), [("train", "loss"), ("test", "loss"), ("test", "accuracy")])
def test_curves_are_the_tables_numbers(table, split, quantity):
    points = table(CURVES, CurvePoint)
    (ax,) = curve_figure(points, split, quantity).axes
    for label in {p.label for p in points if (p.split, p.quantity) == (split, quantity)}:
        mine = [p for p in points if (p.label, p.split, p.quantity) == (label, split, quantity)]
        drawn = line(ax, label)
        assert same(drawn.get_xdata(), [p.epoch for p in mine])
        assert same(drawn.get_ydata(), [p.mean for p in mine])
        low, high = ax.get_ylim()
        assert low < min(p.mean for p in mine) < max(p.mean for p in mine) < high
    assert ax.get_xlabel() == "epoch"
    assert f"{split} {quantity}" in ax.get_ylabel()


def test_the_band_is_the_interval_and_one_seed_has_none(table):
    (ax,) = curve_figure(table(CURVES, CurvePoint), "test", "accuracy").axes
    (band,) = ax.collections
    corners = {tuple(map(float, corner)) for corner in band.get_paths()[0].vertices}
    assert corners == {(0, 0.08), (0, 0.12), (1, 0.94), (1, 0.96), (2, 0.9), (2, 1.0)}
    assert ax.get_title(loc="left") == "Test accuracy · mean of 1–3 seeds · band: 95 % t-interval"


def test_the_earliest_best_epoch_is_starred_on_held_out_accuracy_only(table):
    points = table(CURVES, CurvePoint)
    (ax,) = curve_figure(points, "test", "accuracy").axes
    stars = [artist for artist in ax.get_lines() if artist.get_marker() == "*"]
    assert [(star.get_xdata()[0], star.get_ydata()[0]) for star in stars] == [(1, 0.95), (2, 0.9)]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["bp: 95.0 % (1)", "dgl head=mlp: 90.0 % (2)"]
    (ax,) = curve_figure(points, "test", "loss").axes
    assert not [artist for artist in ax.get_lines() if artist.get_marker() == "*"]


def test_a_loss_over_decades_is_on_a_log_scale_and_says_so(table):
    points = table(CURVES, CurvePoint)
    (ax,) = curve_figure(points, "test", "loss").axes
    assert (ax.get_yscale(), ax.get_ylabel()) == ("log", "test loss, log scale")
    (ax,) = curve_figure(points, "train", "loss").axes
    assert (ax.get_yscale(), ax.get_ylabel()) == ("linear", "train loss")


def test_a_missing_curve_is_named(table):
    with pytest.raises(InputError, match="no validation loss to draw; the table has test accuracy, test loss, train loss"):
        curve_figure(table(CURVES, CurvePoint), "validation", "loss")
    unlabelled = [CurvePoint("simclr", "train", "accuracy", 1, math.nan, math.nan, math.nan, 0)]
    with pytest.raises(InputError, match="no train accuracy to draw; the table has nothing"):
        curve_figure(unlabelled, "train", "accuracy")


# ------------------------------------------------------------------------------------------------------ over training


def test_layers_over_training_are_the_tables_numbers(table):
    points = table(LAYERS, LayerPoint)
    figure = over_training(points, "cosine")
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["block1.conv", "top.out"]
    for ax in figure.axes:
        for label in ("bp", "dni"):
            mine = [p for p in points if (p.label, p.layer, p.quantity) == (label, ax.get_title(loc="left"), "cosine")]
            drawn = line(ax, label)
            assert same(drawn.get_xdata(), [p.step for p in mine])
            assert same(drawn.get_ydata(), [p.mean for p in mine])  # NaN stays NaN: a gap
        assert any(same(artist.get_ydata(), [0, 0]) for artist in ax.get_lines())  # the line at zero
        assert ax.get_ylim()[0] < -0.5
        assert ax.get_ylim()[1] > 1


def test_a_value_between_gaps_gets_a_marker_in_a_long_line():
    means = [math.nan if step % 50 == 0 else 0.5 for step in range(200)]
    means[101] = means[99] = math.nan
    means[100] = 0.25
    points = [LayerPoint("bp", "a", "weight", "cosine", i, m, math.nan, math.nan, int(m == m), 0) for i, m in enumerate(means)]
    (ax,) = over_training(points, "cosine").axes
    marked = line(ax, "bp").get_markevery()
    assert 100 in marked
    assert len(marked) < 20


def test_norm_ratios_are_on_a_log_scale_without_exact_zeros(table):
    figure = over_training(table(LAYERS, LayerPoint), "norm_ratio")
    (ax,) = figure.axes
    assert ax.get_yscale() == "log"
    assert same(line(ax, "dni").get_ydata(), [math.nan, 20.0, 0.5])
    assert any(same(artist.get_ydata(), [1, 1]) for artist in ax.get_lines())
    assert "exact zeros not drawn" in figure.get_suptitle()


def test_values_below_the_lower_limit_are_marked_at_the_axis_end(table):
    figure = over_training(table(LAYERS, LayerPoint), "synth_explained_variance")
    (ax,) = figure.axes
    assert same(line(ax, "dni").get_ydata(), [-1e6, -1.5, 0.25])
    below = [artist for artist in ax.get_lines() if artist.get_marker() == CARETDOWN]
    assert [[*map(int, artist.get_xdata())] for artist in below] == [[0, 10], [0]]  # dni, cdni: each on its own height
    heights = [artist.get_ydata()[0] for artist in below]
    assert heights[0] == 0 < heights[1] < 0.2  # shares of the axis, which ends at the limit
    assert ax.get_ylim()[0] == -1
    assert "▾ below −1" in figure.get_suptitle()


def test_missing_layers_are_named(table):
    points = table(LAYERS, LayerPoint)
    with pytest.raises(InputError, match="no angle to draw; the table has cosine, norm_ratio, synth_explained_variance"):
        over_training(points, "angle")
    with pytest.raises(InputError, match="no finite cosine to draw: all 2 rows are NaN"):
        over_training([p for p in points if p.dropped == 2], "cosine")
    with pytest.raises(InputError, match="mixes activation, weight"):
        over_training([*points, points[0]._replace(kind="activation")], "cosine")


# ----------------------------------------------------------------------------------------------------------- heat map


def test_the_heat_map_writes_every_value_and_hatches_what_has_none(table):
    figure = heat_map(table(FINALS, FinalValue), "cosine")
    ax = figure.axes[0]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["bp", "dgl", "dni"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["block1.conv", "top.out"]  # downwards, as in the printed table
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    written = {(text.get_position()[0] - 0.5, text.get_position()[1] - 0.5): text.get_text() for text in ax.texts}
    assert written == {(0, 0): "1.00", (1, 0): "−0.25", (2, 0): "–", (0, 1): "1.00", (1, 1): "–", (2, 1): "1.00"}
    mesh = ax.collections[0]
    assert mesh.get_array().filled(9).tolist() == [[1.0, -0.254, 9.0], [1.0, 9.0, 1.0]]
    assert (mesh.norm.vmin, mesh.norm.vmax) == (-1, 1)
    assert sorted(patch.get_xy() for patch in ax.patches) == [(1, 1), (2, 0)]
    assert {patch.get_hatch() for patch in ax.patches} == {"////"}


def test_heat_maps_of_ratios_are_symmetric_about_one(table):
    figure = heat_map(table(FINALS, FinalValue), "norm_ratio")
    norm = figure.axes[0].collections[0].norm
    assert norm(1.0) == pytest.approx(0.5)
    assert norm(0.002) == pytest.approx(0)
    assert figure.axes[0].texts[0].get_text() == "2e−3"


# ------------------------------------------------------------------------------------------------------------- styles


def test_a_method_has_one_colour_in_every_figure_and_no_two_labels_look_alike():
    many = ["kp", "dfa", "bp", "dni", "cdni", "dgl head=mlp", "dgl head=cnn", "my-rule", "a-rule", "greedy", "fa", "loco", "overlap"]
    look = styles(many)
    assert list(look)[:5] == ["bp", "dgl head=mlp", "dgl head=cnn", "dni", "cdni"]
    assert list(look)[-2:] == ["a-rule", "my-rule"]
    assert len(set(map(str, look.values()))) == len(many)
    for name in ("bp", "dni", "cdni", "fa"):
        assert look[name] == styles([name])[name]
    assert look["dgl head=mlp"].colour == styles(["bp", "dgl"])["dgl"].colour
    assert look["dgl head=mlp"].colour != look["dgl head=cnn"].colour
    alone = styles(["dgl lr=1", "dgl lr=2", "dgl lr=3"])
    assert [style.colour for style in alone.values()] == ["#0072b2", "#d55e00", "#009e73"]


def test_rules_beside_each_other_have_colours_of_their_own():
    twelve = ["bp", "shallow", "dgl", "dni", "cdni", "chunked", "overlap", "predsim", "infopro", "fa", "dfa", "kp"]
    assert len({style.colour for style in styles(twelve).values()}) == 12
    assert styles(twelve)["dgl"] == styles(["bp", "dgl"])["dgl"]
    assert len({style.colour for style in styles([f"dgl lr={i}" for i in range(12)]).values()}) == 12


def test_the_users_matplotlibrc_changes_nothing(table):
    points = table(CURVES, CurvePoint)
    with matplotlib.rc_context({"lines.linewidth": 9, "figure.facecolor": "black", "font.size": 30}):
        (ax,) = (figure := curve_figure(points, "test", "accuracy")).axes
        assert to_hex(figure.get_facecolor()) == "#ffffff"
        assert ax.xaxis.label.get_size() == 10


# -------------------------------------------------------------------------------------------------------- many labels


RULES = ["bp", "shallow", "dgl", "dni", "cdni", "chunked", "overlap", "predsim", "infopro", "fa", "dfa", "kp"]


def test_lines_of_many_labels_are_labelled_at_their_ends():
    points = [
        CurvePoint(rule, "test", "accuracy", epoch, 0.1 + 0.1 * epoch + 0.001 * i * epoch, math.nan, math.nan, 1)
        for i, rule in enumerate(RULES)
        for epoch in (0, 1, 2)
    ]
    (ax,) = (figure := curve_figure(points, "test", "accuracy")).axes
    assert ax.get_legend() is None
    texts = {text.get_text(): text for text in ax.texts}
    assert len(texts) == len(RULES)
    assert "kp: 32.2 % (2)" in texts
    figure.draw_without_rendering()
    boxes = {text.get_text().split(":")[0]: Text.get_window_extent(text) for text in ax.texts}  # without the arrows
    by_height = sorted(boxes.values(), key=lambda box: box.y0)
    assert all(below.y1 <= above.y0 + 1 for below, above in pairwise(by_height))  # none lies on another
    assert all(box.x1 <= figure.bbox.x1 for box in by_height)
    heights = [boxes[rule].y0 for rule in RULES]
    assert heights == sorted(heights)  # in the order of the lines' ends
    (ax,) = curve_figure([p for p in points if p.label in RULES[:8]], "test", "accuracy").axes
    assert len(ax.get_legend().get_texts()) == 8


def test_panels_of_many_labels_are_drawn_in_parts_that_a_legend_can_name():
    runs = many(RULES, layers=2, steps=3)
    drawn = figure_set(runs).drawn
    parts = [drawn[name] for name in ("cosine_over_training", "cosine_over_training_2")]
    assert "cosine_over_training_3" not in drawn
    named = [[text.get_text() for text in figure.legends[0].get_texts()] for figure, _ in parts]
    assert max(map(len, named)) <= 8
    assert all("bp" in names for names in named)
    assert {name for names in named for name in names} == set(RULES)
    assert [{row.label for row in rows} for _, rows in parts] == [set(names) for names in named]
    assert "figure 1 of 2" in parts[0][0].get_suptitle()


def test_a_table_of_many_labels_and_few_layers_is_turned(table):
    rows = [
        FinalValue(rule, layer, "weight", "cosine", 0.5, math.nan, math.nan, 1, 0) for rule in RULES for layer in ("b1.conv", "top.out")
    ]
    ax = heat_map(rows, "cosine").axes[0]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == list(styles(RULES))
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["b1\nconv", "top\nout"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # read downwards
    rows = [row._replace(layer=f"b{i}.conv") for row in rows[::2] for i in range(12)]
    figure = heat_map(rows, "cosine")
    assert figure.get_figwidth() > 12 * 0.62
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == list(styles(RULES))


def test_a_long_heading_is_broken_and_clears_the_panels():
    rows = layer_points(many(RULES[:4], layers=2, steps=3, seeds=2), "cosine")
    short, long = (
        over_training(rows, "cosine", title=title) for title in ("digits", "a-data-set-with-a-long-name · torchvision:convnext_tiny")
    )
    assert long.get_suptitle().count("\n") == short.get_suptitle().count("\n") + 1
    for figure in (short, long):
        figure.draw_without_rendering()
        head, panel = figure._suptitle.get_window_extent(), figure.axes[0].title
        left = next(t for t in (panel, figure.axes[0]._left_title) if t.get_text())
        assert head.y0 >= left.get_window_extent().y1
        assert head.x1 <= figure.bbox.x1


def test_one_recorded_update_has_an_axis_of_whole_updates():
    rows = layer_points(many(RULES[:2], layers=1, steps=1, seeds=1), "cosine")
    figure = over_training(rows, "cosine")
    figure.draw_without_rendering()
    ax = figure.axes[0]
    low, high = ax.get_xlim()
    shown = [t.get_text() for t, at in zip(ax.get_xticklabels(), ax.get_xticks(), strict=True) if low <= at <= high]
    assert shown
    assert all(word.replace("−", "-").lstrip("-").isdigit() for word in shown)


@pytest.mark.parametrize("title", ["digits", "a-data-set-with-a-long-name · torchvision:convnext_tiny, width 128, depth 12"])
@pytest.mark.parametrize("steps", [(0,), (0, 4, 8)])
def test_no_text_leaves_its_figure(title, steps, monkeypatch):
    monkeypatch.setattr("gradlens.reporting.training_figures.runs_title", lambda runs: title)
    found = figure_set([made("bp", steps=steps), made("dgl", steps=steps), made("dni-unlocked", steps=steps)])
    assert len(found.drawn) >= 6
    for name, (figure, _) in found.drawn.items():
        figure.draw_without_rendering()
        page = figure.bbox
        for text in figure.findobj(Text):
            box = text.get_window_extent()
            if text.get_text() and text.get_visible() and box.width and box.height and not hidden_tick(text):
                assert page.x0 - 1 <= box.x0, (name, text)
                assert box.x1 <= page.x1 + 1, (name, text)
                assert page.y0 - 1 <= box.y0, (name, text)
                assert box.y1 <= page.y1 + 1, (name, text)


def hidden_tick(text):
    """Whether a text is the label of a tick outside its axis, which is not drawn."""
    for ax in text.figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if text in (tick.label1, tick.label2):
                    return not low <= tick.get_loc() <= high
    return False


def test_what_is_of_the_untrained_network_is_not_called_final():
    short = [made("bp", steps=(0,)), made("dgl", steps=(0,))]
    assert "update 0, untrained" in figure_set(short).drawn["cosine_heat_map"][0].get_suptitle()
    mixed = figure_set([made("bp"), short[1]]).drawn["cosine_heat_map"][0].get_suptitle()
    assert "last recorded epoch · dgl: update 0" in mixed


# ------------------------------------------------------------------------------------------------------------ the set


def run(method, gradients=(), split="test"):
    rows = [Metric(split, 0, 0, 2.3, 0.1, 0.1), Metric("train", 1, 4, 1.2, 0.5, 0.5), Metric(split, 1, 4, 1.0, 0.6, 0.6)]
    return Run(Path(f"runs/{method}"), make_config(method=method), {}, rows, [], list(gradients), [], {"updates": 4})


def test_the_set_draws_all_and_keeps_one_style():
    def rows(layer, cosine):
        return [Measurement(s, layer, "weight", q, v, "loss") for s in (0, 2) for q, v in (("cosine", cosine), ("norm_ratio", 2.0))]

    explained = [Measurement(s, "block1", "rule", "synth_explained_variance", 0.5, "loss") for s in (0, 2)]
    found = figure_set([run("dni", rows("a.conv", 0.5) + explained), run("bp", rows("a.conv", 1.0))])
    assert list(found.drawn) == [
        "train_loss", "train_accuracy", "test_loss", "test_accuracy",
        "cosine_over_training", "cosine_heat_map", "norm_ratio_over_training", "explained_variance_over_training",
    ]  # fmt: skip
    assert found.skipped == {}
    colours = set()
    for name, (figure, table) in found.drawn.items():
        assert table
        if name != "cosine_heat_map":
            colours.add(to_hex(line(figure.axes[0], "dni").get_color()))
    assert colours == {"#d55e00"}
    assert "digits · basic-cnn" in found.drawn["cosine_heat_map"][0].get_suptitle()


def test_the_set_says_what_it_skipped_and_why():
    found = figure_set([run("bp", split="validation")])
    assert list(found.drawn) == ["train_loss", "train_accuracy", "validation_loss", "validation_accuracy"]
    assert found.skipped == {
        "cosine_over_training": "no cosine to draw; the table has no rows",
        "cosine_heat_map": "no cosine to draw; the table has no rows",
        "norm_ratio_over_training": "no norm_ratio to draw; the table has no rows",
    }
    with pytest.raises(InputError, match="nothing to draw: no train loss"):
        figure_set([Run(Path("runs/bp"), make_config(), {}, [], [], [], [], {})])


# -------------------------------------------------------------------------------------------------------------- files


ALL = ("png", "svg", "pdf")


def test_saving_twice_gives_the_same_bytes(table, tmp_path):
    points = table(LAYERS, LayerPoint)
    first = save_figure(over_training(points, "cosine"), points, tmp_path / "new" / "folder", "cosine", formats=ALL)
    assert [path.name for path in first] == ["cosine.png", "cosine.svg", "cosine.pdf", "cosine.csv"]
    again = save_figure(over_training(points, "cosine"), points, tmp_path, "again", formats=ALL)
    for a, b in zip(first, again, strict=True):
        assert a.read_bytes() == b.read_bytes()
        assert a.stat().st_size < reporting_style.LARGEST
    assert 900 <= Image.open(first[0]).width <= 1400
    assert b"<dc:date>" not in first[1].read_bytes()
    assert b"<text" not in first[1].read_bytes()  # letters are outlines: no font needed
    assert next(csv.reader(io.StringIO(first[3].read_text()))) == list(LayerPoint._fields)
    without = save_figure(over_training(points, "cosine"), points, tmp_path / "without", "cosine")
    assert sorted((tmp_path / "without").iterdir()) == sorted(without) == [tmp_path / "without" / f"cosine.{end}" for end in ("csv", "png")]
    assert without[0].read_bytes() == first[0].read_bytes()


@pytest.mark.slow
def test_long_noisy_lines_still_give_small_files(tmp_path):
    """Four methods, eight layers, 400 steps with bands: the svg's lines become pixels, its text stays."""
    noise = [math.sin(i * i) for i in range(400)]
    points = [
        LayerPoint(label, f"block{k}.conv", "weight", "cosine", 100 * i, 0.1 * v + 0.15 * n - 0.3, 0.1 * v - 0.5, 0.1 * v, 3, 0)
        for n, label in enumerate(["bp", "dgl", "dni", "cdni"])
        for k in range(1, 9)
        for i, v in enumerate(noise)
    ]
    png, svg, _, _ = save_figure(over_training(points, "cosine"), points, tmp_path, "cosine", formats=ALL)
    assert max(png.stat().st_size, svg.stat().st_size) < reporting_style.LARGEST
    assert svg.read_bytes().count(b"data:image/png;base64,") == 8
    Image.open(png).verify()
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")


def test_a_folder_that_cannot_be_written_is_named(table, tmp_path):
    points = table(CURVES, CurvePoint)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write figures to .*file"):
        save_figure(curve_figure(points, "test", "loss"), points, tmp_path / "file", "loss")


def test_examples_in_docstrings():
    assert doctest.testmod(axes).failed == 0
