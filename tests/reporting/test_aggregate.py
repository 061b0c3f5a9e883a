"""Runs to tables: labels, intervals, last epochs, scores, csv."""

import doctest
import math
import subprocess
import sys
from pathlib import Path

import pytest
from scipy import stats

from gradlens.gradients.rows import Measurement
from gradlens.reporting import aggregate
from gradlens.reporting.aggregate import CurvePoint, FinalValue, LayerPoint, Score, truths
from gradlens.reporting.statistics import interval
from gradlens.runtime.csv_tables import read_csv, write_csv
from gradlens.runtime.errors import InputError
from gradlens.training import run_groups
from gradlens.training.config import make_config
from gradlens.training.run_directory import Metric, Run, Timing

NAN = math.nan


def metrics(*rows, split="test"):
    """(epoch, step, test loss, test accuracy) -> rows as the loop writes them; the train split lies 0.1 above the test loss."""
    found = []
    for epoch, step, loss, accuracy in rows:
        if epoch:
            found.append(Metric("train", epoch, step, loss + 0.1, accuracy, accuracy))
        found.append(Metric(split, epoch, step, loss, accuracy, accuracy))
    return found


CURVE = metrics((0, 0, 2.3, 0.1), (1, 4, 1.0, 0.5), (2, 8, 0.8, 0.7), (3, 12, 0.9, 0.7))


def run(method="bp", seed=0, rows=CURVE, gradients=(), measured=(), speeds=(100.0, 300.0, 200.0), finished=True, **settings):
    timing = [Timing(i, 1.0, speed, 1.0) for i, speed in enumerate(speeds, 1)]
    config = make_config(method=method, seed=seed, **settings)
    summary = {"updates": 12} if finished else {}
    return Run(Path(f"runs/{method}-{seed}"), config, {}, list(rows), timing, list(gradients), list(measured), summary)


def cosine(step, layer, value, kind="weight"):
    return Measurement(step, layer, kind, "cosine", value, "loss, same passes")


# ------------------------------------------------------------------------------------------------------------- labels


def test_a_method_alone_is_its_own_label():
    assert run_groups.run_labels([run("bp", 0), run("bp", 1), run("dgl"), run("dni")]) == ["bp", "bp", "dgl", "dni"]


def test_groups_of_one_method_show_only_the_settings_in_which_they_differ():
    runs = [
        run("bp"),
        run("dgl", options={"head": "linear"}),
        run("dgl", seed=3, options={"head": "mlp"}),
        run("dgl", options={"head": "mlp"}),
    ]
    assert run_groups.run_labels(runs) == ["bp", "dgl head=linear", "dgl", "dgl"]  # mlp is the default
    sweep = [run("bp", lr=lr) for lr in (3e-4, 1e-3, 0.01)]
    assert run_groups.run_labels(sweep) == ["bp lr=0.0003", "bp lr=0.001", "bp lr=0.01"]  # of three values each is said
    assert run_groups.run_labels([run("dgl", options={"pooled": True}), run("dgl")]) == ["dgl pooled", "dgl"]
    parts = [run("chunked", options={"chunks": chunks}) for chunks in ([1, 3], [2, 2])]
    assert run_groups.run_labels(parts) == ["chunked chunks=[1,3]", "chunked chunks=[2,2]"]


def test_a_rules_own_defaults_need_no_word():
    assert make_config(method="kp").optimizer.name != make_config().optimizer.name
    assert run_groups.run_labels([run("kp"), run("kp", lr=0.123)]) == ["kp", "kp lr=0.123"]
    assert run_groups.run_labels([run("bp"), run("bp", lr=0.1)]) == ["bp", "bp lr=0.1"]
    assert run_groups.run_labels([run("kp", lr=3e-4), run("kp", lr=0.1)]) == ["kp lr=0.0003", "kp"]


def test_an_option_named_like_a_setting_is_distinguished_from_it():
    runs = [run("dni", width=8, options={"width": 16}), run("dni", width=4, augment=True)]
    assert run_groups.run_labels(runs) == ["dni width=8 dni.width=16", "dni augment width=4"]


def test_paths_are_shortened_where_that_keeps_them_apart():
    assert run_groups.run_labels([run(data="/a/cats"), run(data="/b/dogs")]) == ["bp data=cats", "bp data=dogs"]
    assert run_groups.run_labels([run(data="/x/a/cats"), run(data="/x/b/cats")]) == ["bp data=a/cats", "bp data=b/cats"]
    starts = [f"runs/bp-digits-basic-cnn-s{seed}-7d26ab" for seed in (0, 1)]
    assert run_groups.run_labels([run(init_from=start) for start in starts]) == ["bp init=bp-s0-7d26ab", "bp init=bp-s1-7d26ab"]


def test_a_label_that_would_be_long_has_short_names_and_no_more_settings_than_tell_apart():
    assert run_groups.run_labels([run(weight_decay=0.1, batch_size=32), run(lr=0.01)]) == ["bp bs=32 wd=0.1", "bp lr=0.01"]
    long = {"weight_decay": 0.1, "batch_size": 32, "label_noise": 0.25, "augment": True, "normalize": "none", "steps": 100}
    runs = [run(), run(**long), run(**{**long, "lr": 0.01})]
    labels = run_groups.run_labels(runs)
    assert len(set(labels)) == 3
    assert max(map(len, labels)) <= run_groups.LONGEST
    told = {(row.label, row.setting): row.value for row in run_groups.label_settings(runs) if row.differs}
    assert {setting for _, setting in told} == {*long, "lr"}  # the table has what the labels leave out
    assert told[labels[1], "label_noise"] == "0.25"


def own(kind, name, digest="0123456789", word=None):
    kept = {"file": f"/home/a/{name}.py", "name": "build" if kind == "model" else name, "sha256": digest, "depends_on": ["input"]}
    return {kind: word or name, "own": {kind: kept}}


def test_what_a_run_lacks_is_no_error_and_needs_no_word():
    """Runs of users' networks, rules and data beside shipped ones."""
    mixed = [run(), run(**own("model", "net")), run(data="/a/pets"), run("dgl"), run(init_from="runs/bp"), run("distil", teacher="runs/bp")]
    mixed += [run(ranks=2, parallel="data")]
    labels = run_groups.run_labels(mixed)
    assert len(set(labels)) == len(labels)
    assert max(map(len, labels)) <= 28
    assert run_groups.run_labels([run("dgl"), run("dgl", **own("model", "net"))]) == ["dgl model=basic-cnn", "dgl model=net"]
    versions = run_groups.run_labels([run(**own("model", "net", digest * 10)) for digest in "ab"])
    assert versions == ["bp file=net.py@aaaaaa", "bp file=net.py@bbbbbb"]
    assert {row.value for row in run_groups.label_settings(mixed) if row.setting == "model_file"} == {"–", "net.py@012345"}


def test_the_same_run_twice_is_refused():
    with pytest.raises(InputError, match=r"runs/bp-0 and runs/bp-0 are the same run \(bp, seed 0\)"):
        run_groups.group_runs([run(), run("dgl"), run()])
    with pytest.raises(InputError, match="no runs"):
        aggregate.curve_points([])


def test_runs_are_grouped_by_data_and_network_whatever_else_differs():
    mixed = [run(), run("dgl", width=8), run("dgl", lr=0.1, seed=2), run(data="/a/pets"), run(width=8), run(width=16, limit=9)]
    found = run_groups.experiments(mixed)
    assert [(e.name, e.heading, [mixed.index(r) for r in e.runs]) for e in found] == [
        ("digits-basic-cnn", "digits · basic-cnn", [0, 2]),
        ("digits-basic-cnn-width8", "digits · basic-cnn · width 8", [1, 4]),
        ("pets-basic-cnn", "pets · basic-cnn", [3]),
        ("digits-basic-cnn-width16-limit9", "digits · basic-cnn · width 16 · limit 9", [5]),
    ]


def test_the_same_images_under_another_path_are_one_experiment_and_other_images_another():
    here, moved, other = (run(m, data=f"/{m}/pets") for m in ("bp", "dgl", "dni"))
    for one, digest in ((here, "a"), (moved, "a"), (other, "b")):
        one.info["data_fingerprint"] = digest
    found = run_groups.experiments([here, moved, other])
    assert [e.runs for e in found] == [[here, moved], [other]]
    assert len({e.name for e in found}) == 2


# ---------------------------------------------------------------------------------------------------------- intervals


def test_interval_is_students():
    values = [0.91, 0.87, 0.95, 0.9]
    mean, low, high, n = interval(values)
    half = stats.t.ppf(0.975, 3) * stats.tstd(values) / math.sqrt(4)
    assert (mean, low, high, n) == (pytest.approx(0.9075), pytest.approx(0.9075 - half), pytest.approx(0.9075 + half), 4)
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 3, loc=mean, scale=stats.sem(values)))


def test_one_seed_has_no_interval_and_none_no_mean():
    assert [*map(str, interval([0.5]))] == ["0.5", "nan", "nan", "1"]
    assert [*map(str, interval([NAN, math.inf]))] == ["nan", "nan", "nan", "0"]
    assert interval([NAN, 1.0, 3.0]).n == 2
    assert interval([0.5, 0.5, 0.5]) == (0.5, 0.5, 0.5, 3)


# ------------------------------------------------------------------------------------------------------------- tables


def test_curves_use_the_seeds_that_reached_the_epoch():
    other = metrics((0, 0, 2.3, 0.1), (1, 4, 2.0, 0.7))
    points = aggregate.curve_points([run(seed=0), run(seed=1, rows=other)])
    losses = [p for p in points if (p.split, p.quantity) == ("test", "loss")]
    assert [(p.epoch, p.mean, p.seeds) for p in losses] == [(0, 2.3, 2), (1, 1.5, 2), (2, 0.8, 1), (3, 0.9, 1)]
    assert losses[1].high == pytest.approx(1.5 + stats.t.ppf(0.975, 1) * math.sqrt(0.5) / math.sqrt(2))
    assert math.isnan(losses[2].low)
    train = [p.epoch for p in points if (p.split, p.quantity) == ("train", "accuracy")]
    assert train == [1, 2, 3]


def test_layer_points_keep_the_layers_order_and_count_what_they_drop():
    first = [
        cosine(0, "block10.conv", NAN),
        cosine(0, "block2.conv", 0.5),
        cosine(0, "block2.norm", 0.9),
        cosine(0, "block2", 0.1, "activation"),
    ]
    second = [cosine(0, "block10.conv", 0.2), cosine(0, "block2.conv", 0.7), cosine(4, "block10.conv", NAN)]
    points = aggregate.layer_points([run(seed=0, gradients=first), run(seed=1, gradients=second)], "cosine")
    assert [(p.layer, p.step, p.seeds, p.dropped) for p in points] == [
        ("block10.conv", 0, 1, 1), ("block10.conv", 4, 0, 1), ("block2.conv", 0, 2, 0),
    ]  # fmt: skip
    assert points[0].mean == 0.2
    assert math.isnan(points[1].mean)
    assert points[2].mean == pytest.approx(0.6)
    (block,) = aggregate.layer_points([run(gradients=first)], "cosine", "activation")
    assert (block.layer, block.kind, block.mean) == ("block2", "activation", 0.1)


def test_a_step_measured_again_does_not_count_as_a_second_seed():
    points = aggregate.layer_points([run(gradients=[cosine(4, "a", 0.5)], measured=[cosine(4, "a", 0.1), cosine(8, "a", 0.3)])], "cosine")
    assert [(p.step, p.mean, p.seeds) for p in points] == [(4, 0.5, 1), (8, 0.3, 1)]


def test_final_is_the_mean_over_the_last_epoch_that_recorded():
    """Epochs end after 4, 8 and 12 updates: the steps recorded last, 5 and 7, lie in the second; step 4 is its first."""
    rows = [cosine(step, "a", value) for step, value in [(3, 9.0), (4, 0.1), (5, NAN), (7, 0.4)]]
    (final,) = aggregate.final_values([run(gradients=rows)], "cosine")
    assert final == FinalValue("bp", "a", "weight", "cosine", pytest.approx(0.25), final.low, final.high, 1, 1)
    assert math.isnan(final.low)


def test_final_over_seeds_and_a_seed_without_a_value():
    runs = [run(seed=s, gradients=[cosine(9, "b", v), cosine(9, "a", 1.0)]) for s, v in enumerate([0.2, 0.4, NAN])]
    b, a = aggregate.final_values(runs, "cosine")
    assert (b.layer, b.seeds, b.dropped, b.mean) == ("b", 2, 1, pytest.approx(0.3))
    assert (b.low, b.high) == pytest.approx(interval([0.2, 0.4])[1:3])
    assert (a.layer, a.seeds, a.low, a.high) == ("a", 3, 1.0, 1.0)


def test_what_is_measured_after_the_last_update_belongs_to_the_last_epoch():
    rows, later = [cosine(8, "a", 0.2)], [cosine(12, "a", 0.4)]
    assert aggregate.final_values([run(gradients=rows, measured=later)], "cosine")[0].mean == pytest.approx(0.3)
    unfinished = run(gradients=[*rows, *later], finished=False)
    assert aggregate.final_values([unfinished], "cosine")[0].mean == 0.4


def test_runs_that_recorded_nothing_give_empty_tables():
    assert aggregate.layer_points([run()], "cosine") == []
    assert aggregate.final_values([run()], "cosine") == []


def test_scores():
    other = metrics((0, 0, 2.3, 0.1), (1, 4, 1.0, 0.9), (2, 8, 0.6, 0.8))
    (score,) = aggregate.scores([run(seed=0, lr=0.01), run(seed=1, rows=other, lr=0.01, speeds=(400.0,))])
    best, final = interval([0.7, 0.9]), interval([0.7, 0.8])
    assert score[:4] == ("bp", 0.01, 2, "test")
    assert score[4:-1] == pytest.approx((*best[:3], 1.5, *final[:3], 0.85, 0.75, 250.0))
    assert score.score_name == "accuracy"


def test_a_score_of_which_lower_is_better_is_best_where_it_is_lowest():
    losses = metrics((0, 0, 2.3, 0.1), (1, 4, 1.0, 0.9), (2, 8, 1.6, 0.8))
    rows = [m._replace(score=math.exp(m.loss), score_name="perplexity") for m in losses]
    (score,) = aggregate.scores([run(rows=rows)])
    assert (score.score_name, score.best_epoch) == ("perplexity", 1.0)
    assert (score.best_score, score.final_score) == pytest.approx((math.exp(1.0), math.exp(1.6)))
    curve = {p.epoch: p.mean for p in aggregate.curve_points([run(rows=rows)]) if (p.split, p.quantity) == ("test", "perplexity")}
    assert curve == pytest.approx({0: math.exp(2.3), 1: math.exp(1.0), 2: math.exp(1.6)})


def test_scores_of_one_seed_name_the_earliest_best_epoch_and_the_validation_split():
    rows = metrics((0, 0, 2.3, 0.1), (1, 4, 1.0, 0.5), (2, 8, 0.8, 0.7), (3, 12, 0.9, 0.7), split="validation")
    (score,) = aggregate.scores([run(rows=rows, validation=0.1)])
    assert (score.split, score.best_epoch, score.best_score, score.test_loss) == ("validation", 2.0, 0.7, 0.9)
    assert math.isnan(score.best_low)


def test_scores_without_accuracy_or_without_any_evaluation():
    (score,) = aggregate.scores([run(rows=metrics((0, 0, 2.3, NAN), (1, 4, 1.0, NAN)))])
    assert math.isnan(score.best_score)
    assert score.test_loss == 1.0
    with pytest.raises(InputError, match=r"bp: expected one held-out split in metrics.csv, found none \(runs/bp-0\)"):
        aggregate.scores([run(rows=[])])


# ---------------------------------------------------------------------------------------------------------------- csv


@pytest.mark.parametrize(
    "row",
    [
        CurvePoint("dgl head=linear", "test", "loss", 3, 0.1 + 0.2, 1e-17, 1e300, 3),
        LayerPoint('a "label", with a comma', "block1.conv", "weight", "cosine", 10, -0.5, -1.0, 0.0, 2, 1),
        FinalValue("bp", "top.out", "weight", "norm_ratio", 1.0, 0.9, 1.1, 3, 0),
        Score("bp", 3e-4, 3, "test", 0.9, 0.8, 1.0, 2.0, 0.9, 0.8, 1.0, 0.1, 0.2, 3000.5),
    ],
)
def test_csv_reads_back_bit_for_bit(tmp_path, row):
    write_csv(tmp_path / "a.csv", [row, row])
    assert read_csv(tmp_path / "a.csv", type(row)) == [row, row]
    assert (tmp_path / "a.csv").read_bytes().count(b"\r") == 0


def test_csv_keeps_nan(tmp_path):
    write_csv(tmp_path / "a.csv", [CurvePoint("bp", "test", "loss", 0, 1.0, NAN, NAN, 1)])
    (row,) = read_csv(tmp_path / "a.csv", CurvePoint)
    assert math.isnan(row.low)
    assert (tmp_path / "a.csv").read_text().splitlines()[0] == "label,split,quantity,epoch,mean,low,high,seeds"


def test_csv_says_what_is_wrong(tmp_path):
    with pytest.raises(InputError, match="without rows"):
        write_csv(tmp_path / "a.csv", [])
    with pytest.raises(InputError, match=r"cannot read .*a.csv: no such file"):
        read_csv(tmp_path / "a.csv", CurvePoint)
    with pytest.raises(InputError, match=r"cannot write .*: is a directory"):
        write_csv(tmp_path, [CurvePoint("bp", "test", "loss", 0, 1.0, NAN, NAN, 1)])
    (tmp_path / "a.csv").write_text("step,layer\n1,a\n")
    with pytest.raises(InputError, match=r"not a table of CurvePoint rows: its columns are step, layer, wanted label"):
        read_csv(tmp_path / "a.csv", CurvePoint)
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(InputError, match="not a table of CurvePoint"):
        read_csv(tmp_path / "a.csv", CurvePoint)


# -------------------------------------------------------------------------------------------------------------- module


def test_examples_in_docstrings():
    assert doctest.testmod(aggregate).failed == 0


def test_torch_is_not_imported():
    code = (
        "import sys, gradlens.reporting.aggregate, gradlens.reporting.training_figures;"
        "sys.exit('torch' in sys.modules or 'matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ------------------------------------------------------------------------------------------------- chance, noise, descent


def sparse(step, layer, **values):
    return [Measurement(step, layer, "weight", quantity, value, "loss, same passes") for quantity, value in values.items()]


def test_alignment_compares_cosine_null_and_correction_at_the_same_steps():
    """Steps 8 and 10 lie in the last epoch; only 8 has sparse rows. What was measured later plays no part."""
    rows = [cosine(0, "a", 0.9), cosine(8, "a", 0.5), cosine(10, "a", -0.5)]
    rows += sparse(0, "a", null_cosine=0.8, across_halves=0.1, noise_ceiling=0.9, rule_ceiling=0.9)
    rows += sparse(8, "a", null_cosine=0.1, across_halves=0.2, noise_ceiling=0.16, rule_ceiling=0.25)
    later = sparse(12, "a", null_cosine=7.0)
    found = {v.quantity: v for v in aggregate.alignment_values([run(gradients=rows, measured=later)])}
    assert found["cosine"].mean == 0.5
    assert found["null_cosine"].mean == 0.1
    assert found["noise_corrected"].mean == pytest.approx(0.2 / math.sqrt(0.16 * 0.25))


def test_a_ceiling_below_zero_corrects_nothing_and_rules_without_halves_have_no_correction():
    rows = [cosine(8, "a", 0.5), *sparse(8, "a", null_cosine=0.1, across_halves=0.2, noise_ceiling=-0.1, rule_ceiling=0.3)]
    (value,) = [v for v in aggregate.alignment_values([run(gradients=rows)]) if v.quantity == "noise_corrected"]
    assert math.isnan(value.mean)
    assert value.dropped == 1
    rows = [cosine(8, "a", 0.5), *sparse(8, "a", null_cosine=0.1)]
    assert {v.quantity for v in aggregate.alignment_values([run(gradients=rows)])} == {"cosine", "null_cosine"}
    assert aggregate.alignment_values([run(gradients=[cosine(8, "a", 0.5)])]) == []


def test_descent_is_a_ratio_of_means_over_seeds():
    def descent(predicted, measured):
        values = {"predicted_change": predicted, "measured_change": measured, "descent_ratio": measured / predicted}
        return [Measurement(4, "network", "descent", quantity, value, "loss, same passes") for quantity, value in values.items()]

    runs = [run(seed=0, gradients=descent(-1.0, -0.9)), run(seed=1, gradients=descent(-0.001, 0.05))]
    (point,) = aggregate.descent_points(runs)
    assert (point.layer, point.step, point.quantity, point.seeds) == ("network", 4, "descent_ratio", 2)
    assert point.mean == pytest.approx((-0.9 + 0.05) / (-1.0 - 0.001))


def test_what_true_means_is_reported_where_it_is_not_the_loss_on_the_same_passes():
    def with_reference(method, *references):
        rows = [Measurement(0, "block1.conv", "weight", "cosine", 0.5, reference) for reference in references]
        return Run(Path(f"runs/{method}"), make_config(method=method), {}, [], [], rows, [], {})

    runs = [
        with_reference("bp", "loss, same passes"),
        with_reference("simclr", "NT-Xent at the top of the encoder, same passes"),
        with_reference("loco", "NT-Xent at the top of the encoder, same passes"),
        with_reference("dgl-async", "loss, clean chain pass"),
    ]
    assert truths(runs) == [
        "true for simclr, loco: the gradient of the NT-Xent at the top of the encoder, same passes",
        "true for dgl-async: the gradient of the loss, clean chain pass",
    ]
    assert truths(runs[:1]) == []
    feedback = Measurement(0, "block1.conv", "feedback_transpose", "angle", 0.5, "transpose of W")
    runs[0].gradients.append(feedback)  # what feedback is compared with is not what the rule's gradient is
    assert truths(runs[:1]) == []
