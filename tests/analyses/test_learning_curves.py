"""The learning curves: what is compared, what is read from a run, and pictures from saved rows. Its trainings are not made here."""

import json
import math
from argparse import Namespace
from types import SimpleNamespace

import pytest

from analyses import iteration1, learning_curves
from analyses.figures import redrawn
from analyses.figures.curve_drawing import READING, labelled_curves
from analyses.training.all_test_images import FullScore, full_scores
from analyses.training.learning_curve_runs import GROUPS, STAGES, config, cost
from analyses.training.study import run_context_of
from analyses.verdicts.decision import decide, measured
from gradlens.reporting.aggregate import CurvePoint, LayerPoint
from gradlens.reporting.style import styles
from gradlens.runtime.csv_tables import write_csv
from gradlens.training.config import make_config
from gradlens.training.metrics import TRAIN
from gradlens.training.run_directory import Metric
from gradlens.training.runs.train_run import train_or_reuse
from tools.docs.verdict_tables import verdict_table

TESTS = {test.name: test for test in (*learning_curves.TESTS, *iteration1.TESTS)}


def test_every_run_is_planned_once_and_every_group_is_compared():
    planned = [(group, stage.seed) for stage in STAGES for group in stage.groups]
    assert len(planned) == len(set(planned)) == len({config(*each, "digits").run_name() for each in planned})
    assert {group for group, _ in planned} == set(GROUPS)
    assert {group for test in learning_curves.TESTS for leaf in test.leaves for group in leaf.contrast} == set(GROUPS)
    assert cost(STAGES) <= 60


def test_dni_and_cdni_are_the_published_ones_and_the_defaults_stand_beside_them():
    options = {group: config(group, 0, "digits").options for group in GROUPS if "dni" in group}
    assert {(o["target"], o["zero_bias"]) for group, o in options.items() if "default" not in group} == {("mean", False)}
    assert {(o["target"], o["zero_bias"]) for group, o in options.items() if "default" in group} == {("sum", True)}


def test_accuracies_that_are_compared_end_at_a_rate_of_zero():
    assert {config(group, 0, "digits").optimizer.lr_schedule for group in GROUPS} == {"cosine"}


def test_a_sentence_has_one_primary_test():
    primary = [test.primary_of for test in TESTS.values() if test.primary_of]
    assert len(primary) == len(set(primary)) == 11


def fake(train, seed=0):
    """A run whose training accuracies (%) and losses by epoch are given."""
    metrics = [Metric("test", 0, 0, 2.3, 0.1, 0.1), *(Metric(TRAIN, e, e, loss, a / 100, 1) for e, (a, loss) in enumerate(train, 1))]
    return SimpleNamespace(metrics=metrics, seed=seed)


@pytest.fixture
def found():
    """Values of two seeds; a group's test accuracies are written into its name's place below."""
    final = {
        "bp": (50, 52), "dgl": (51, 50), "bp augmented": (60, 61), "dgl augmented": (60.5, 61.5), "dni": (30, 31), "cdni": (40, 42),
        "bp sgd 0.001": (40, 40), "bp sgd 0.003": (45, 44), "dgl sgd 0.001": (44, 44), "dgl sgd 0.003": (43, 46),
    }  # fmt: skip
    runs = {group: [fake([(50, 2.0), (100, 0.25)]), fake([(60, 1.0), (98, 0.75)])] for group in final}
    scores = {
        id(run): [FullScore(1, 1, accuracy + 3, 1.5), FullScore(2, 2, accuracy, 2.0)]
        for group, mine in runs.items()
        for run, accuracy in zip(mine, final[group], strict=True)
    }
    return learning_curves.values(runs, lambda run: scores[id(run)])


def test_values_are_read_seed_by_seed(found):
    assert found[learning_curves.FIT]["bp"] == [100, 98]
    assert found[learning_curves.FINAL]["bp"] == [50, 52]
    assert found[learning_curves.BEST]["bp"] == [53, 55]
    assert found[learning_curves.LOSS]["bp"] == [1.125, 0.875]
    assert found[learning_curves.GAP]["bp"] == [1.75, 1.25]


def decided(found):
    """Every test that has values, and every part, by name."""
    whole = decide(measured(learning_curves.TESTS, {"values": found}), {"values": found})
    return {one.test.name: one for d in whole for one in (d, *d.parts)}


def test_less_difference_with_augmentation_is_one_of_the_means_over_seeds(found):
    """dgl − bp is 1 and −2 plain, 0.5 and 0.5 augmented: −0.5 and 0.5 on average, so that plain points downwards."""
    by_name = decided(found)
    assert by_name["augmentation-shrinks"].effect.mean == pytest.approx(1.0)  # −(−0.5 − 0.5)
    assert by_name["augmentation-not-reversed"].effect.mean == pytest.approx(0.0)  # −(−0.5 + 0.5)
    assert by_name["augmentation-less-difference"].verdict == "undecided"


def test_the_rate_must_help_the_one_and_harm_the_other(found):
    by_name = decided(found)
    assert by_name["rate-helps-bp"].effect.mean == 4.5  # 5 and 4
    assert by_name["rate-harms-dgl"].effect.mean == -0.5  # loses 1, gains 2
    assert by_name["rate-both"].deciding.test.name == "rate-harms-dgl"


def test_cdni_and_dni_are_compared_at_their_best(found):
    assert decided(found)["cdni-above-dni"].effect.mean == 10.5  # of the four that were kept, all 3 above the last
    assert decided(found)["cdni-above-dni"].test.metric == learning_curves.BEST


def test_both_must_fit_and_cdni_almost(found):
    by_name = decided(found)
    assert [part.test.name for part in by_name["both-fit"].parts] == ["bp-fits", "dgl-fits"]
    assert by_name["dgl-fits"].effect.mean == 99
    assert [(part.test.metric, part.test.bound) for part in by_name["cdni-almost"].parts] == [
        (learning_curves.FIT, 95),
        (learning_curves.FIT, 0.5),
    ]


def test_stages_that_were_left_out_leave_tests_without_values(found):
    by_name = decided(found)
    assert "shallow-fits-as-dni" not in by_name
    assert "normalising" not in by_name
    assert by_name["dni-under-bp"].seeds == 2


def test_the_pages_table_has_a_row_for_each_test_and_part_with_values(found):
    whole = decide(measured(learning_curves.TESTS, {"values": found}), {"values": found})
    lines = verdict_table(whole).splitlines()
    assert len(lines) == 2 + len(whole) + sum(len(d.parts) for d in whole) + 2  # the last explains the brackets
    assert not any("shallow" in line for line in lines)
    (part,) = (line for line in lines if "plain minus augmented" in line)
    assert part.startswith("| – final test accuracy, dgl - bp")
    assert part.split(" | ")[1].startswith("1 [")
    assert part.split(" | ")[2] == "2 seeds"
    assert sum("**" in line for line in lines) == 9  # the primary tests but that of the normalisations


def test_saved_weights_are_tested_on_all_images_once(tmp_path, monkeypatch):
    def run_of(out, **changes):
        settings = {"data": "digits", "model": "mlp", "width": 8, "limit": 100, "batch_size": 50, "epochs": 4, "record_every": 0, **changes}
        context = run_context_of(Namespace(out=out, device="cpu"))
        return train_or_reuse([make_config(method="dgl", **settings)], context, lambda c: lambda *said: None)[0], context

    run, context = run_of(tmp_path, limit_test=20, keep_checkpoints=2)
    whole, _ = run_of(tmp_path / "whole")  # tested on all images after every epoch, which changes nothing in training
    rows = full_scores(run, context)
    theirs = {m.epoch: m for m in whole.metrics if m.split == "test"}
    assert [(row.step, row.epoch) for row in rows] == [(4, 2), (8, 4)]
    assert [row.accuracy for row in rows] == [pytest.approx(100 * theirs[e].accuracy) for e in (2, 4)]
    assert [row.loss for row in rows] == [pytest.approx(theirs[e].loss, rel=1e-5) for e in (2, 4)]
    file = run.path / "all-test-images.json"
    kept = json.loads(file.read_text())
    old = {"images": kept["images"], "rows": kept["rows"]}
    with monkeypatch.context() as patch:
        patch.setattr("analyses.training.all_test_images._scores", None)  # what was found stays in the run directory
        assert full_scores(run, context) == rows
        file.write_text(json.dumps(old))  # of a script from before there were keys
        assert full_scores(run, context) == rows
    wrong = [[*row[:2], 7.0, 7.0] for row in rows]
    keys = [{**kept["key"], name: 20} for name in ("weights", "data", "images")]
    for stale in ({**old, "images": 20}, *({**kept, "key": key} for key in keys)):
        file.write_text(json.dumps({**stale, "rows": wrong}))
        assert full_scores(run, context) == rows


# ----------------------------------------------------------------------------------------------------------- pictures


def curve(label, values, split="train"):
    return [CurvePoint(label, split, "accuracy", epoch, v, v - 1, v + 1, 3) for epoch, v in enumerate(values, 1)]


def texts(figure):
    (ax,) = figure.axes
    return [text.get_text() for text in ax.texts]


def test_lines_are_named_at_their_ends_and_readings_are_open_marks():
    rows = [*curve("bp", [10, 20, 30]), *curve("dgl", [10, 25, 40]), *curve("bp", [12, 22], READING)]
    figure = labelled_curves(rows, styles(["bp", "dgl"]), "dgl ends above bp", ["a note"], "accuracy (%)")
    assert texts(figure) == ["bp", "dgl"]
    (ax,) = figure.axes
    assert ax.get_title("left") == "dgl ends above bp\na note"
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_legend()) == ("epoch", "accuracy (%)", None)
    (marks,) = [line for line in ax.lines if line.get_linestyle() == "None" and len(line.get_xdata())]
    assert (list(marks.get_ydata()), marks.get_markerfacecolor()) == ([12, 22], "none")


@pytest.mark.parametrize("scale", ["linear", "symlog"])
def test_values_far_below_zero_are_seen(scale):
    rows = [
        LayerPoint("dni", "block1", "rule", "synth_explained_variance", s, v, math.nan, math.nan, 1, 0) for s, v in ((0, -3e5), (16, 0.5))
    ]
    figure = redrawn.panel_figure(rows, redrawn.Panels("any", "share", lambda rows: f"{len(rows)} below nothing", scale), "a note")
    low, high = figure.axes[0].get_ylim()
    assert low < -3e5 < 0.5 < high


def test_a_picture_is_drawn_anew_without_changing_its_table(tmp_path):
    rows = [p._replace(split="test", mean=p.mean / 100, low=math.nan, high=math.nan) for p in curve("bp", [50, 60])]
    write_csv(tmp_path / "test_accuracy.csv", rows)
    before = (tmp_path / "test_accuracy.csv").read_bytes()
    heard = []
    message = lambda rows: heard.append(redrawn.with_unit(redrawn.ends_of(rows), " %")) or "so it is"  # noqa: E731
    redrawn.draw_curves(tmp_path, [redrawn.Curve("test", "accuracy", message)], ["a note"], curve("bp", [51], READING))
    assert (tmp_path / "test_accuracy.csv").read_bytes() == before
    assert heard == ["bp\u00a060.0\u00a0%"]
    assert (tmp_path / "test_accuracy.png").exists()


# ------------------------------------------------------------------------------------------------- the first iteration


def test_one_seed_decides_nothing_and_the_spread_is_that_measured_elsewhere(tmp_path):
    table = [
        {"method": m, "when": when, "ours": theirs + 1 if m != "bp" else theirs - 2, "documents": theirs}
        for m, values in iteration1.DOCUMENTS.items()
        for when, theirs in zip(iteration1.WITHIN, values, strict=True)
        if theirs is not None
    ]
    found = iteration1.values({"table": table})
    assert found[iteration1.LARGEST]["all"] == [pytest.approx(-2)]
    decided = decide(iteration1.TESTS, {"values": found})
    assert len(decided) == 7
    assert {d.verdict for d in decided} == {"undecided"}
    assert all(math.isnan(d.effect.low) for d in decided)
    assert iteration1.seed_sd(tmp_path) is None
    (tmp_path / "learning_curves").mkdir()
    (tmp_path / "learning_curves" / "results.json").write_text('{"values": {"final test accuracy": {"bp": [1, 3], "dni": [2]}}}')
    assert iteration1.seed_sd(tmp_path)["points"] == {"bp": {"sd": pytest.approx(2**0.5), "seeds": 2}}
