"""Tables of runs: headings that say what stands under them, intervals, learning rates, and what diverged."""

import math

import pytest
from made_runs import LAYERS, made

from gradlens.reporting.console import comparison_table, comparison_tables, results_table
from gradlens.reporting.run_summary import run_lines, run_summary

TWO = [made("bp", accuracy=0.9), made("dni", accuracy=0.8, cosines=(0.1, 0.2, 0.3, 1.0, 1.0))]
SEEDS = [made("bp", seed, accuracy=0.9 + 0.01 * seed) for seed in range(3)]


def column(table, name):
    return [row[[c.name for c in table.columns].index(name)] for row in table.rows]


def test_the_comparison_has_a_row_a_method_and_headings_that_say_what_is_under_them():
    table = comparison_table(TWO)
    assert [c.name for c in table.columns] == ["method", *LAYERS, "best test accuracy", "best epoch", "final test accuracy"]
    assert [cell.text for cell in column(table, "final test accuracy")] == ["90.0", "80.0"]
    assert [cell.text for cell in column(table, "best epoch")] == ["2", "2"]
    assert [cell.value for cell in column(table, "block2.conv")] == [1.0, 0.2]
    assert table.notes == []
    assert "final epoch" not in table.text(80)


def test_three_seeds_stay_readable_at_80_columns():
    runs = [*SEEDS, *(made("dni", seed, cosines=(0.1 + 0.01 * seed, 0.2, 0.3, 1.0, 1.0), accuracy=0.8 + 0.02 * seed) for seed in range(3))]
    table = comparison_table(runs)
    text = table.text(80)
    (line,) = [line for line in text.splitlines() if line.startswith("block1.conv")]
    assert line.split() == ["block1.conv", "1.00", "±", "0.00", "0.11", "±", "0.02"]
    assert max(map(len, text.splitlines())) <= 80
    best = column(table, "best test accuracy")[0]
    assert best.value == pytest.approx(91.0)
    assert best.value - best.low == pytest.approx(best.high - best.value)
    assert any("t-interval" in note for note in table.notes)


def test_rates_stand_in_the_table_where_they_differ_or_all_is_requested():
    assert "lr" not in [c.name for c in comparison_table(TWO).columns]
    rates = [made("bp", lr=0.1), made("dni", lr=1e-3)]
    assert [cell.value for cell in column(comparison_table(rates), "lr")] == [0.1, 1e-3]
    assert [cell.value for cell in column(comparison_table(SEEDS, whole=True), "seeds")] == [3]


def test_networks_of_many_layers_are_read_with_a_row_a_layer():
    table = comparison_table([made(cosines=(1.0,) * 5)])
    assert not table.turned
    many = made()
    many.gradients = [r._replace(layer=f"{r.layer}{i}") for i in range(2) for r in many.gradients]
    assert comparison_table([many]).turned


@pytest.mark.parametrize(
    ("loss", "said"), [(579539.2, "train loss 5.8e5"), (math.nan, "a train loss that is NaN or infinite"), (math.inf, "NaN or infinite")]
)
def test_a_run_that_diverged_is_reported(loss, said):
    run = made(lr=2.0)
    run.metrics = [m._replace(loss=loss) if m.split == "train" else m for m in run.metrics]
    table = results_table([run])
    (note,) = table.notes
    assert said in note
    assert "diverged" in note
    assert "lower --lr than 2" in note
    assert "579" not in table.text(80)
    assert results_table([made()]).notes == []
    large = [m._replace(loss=500.0) for m in run.metrics]  # as it was before training: the loss of this rule is large
    run.metrics = large
    assert results_table([run]).notes == []


def test_a_runs_summary_says_epochs_updates_images_minutes_and_accuracy():
    said = run_summary(made(speed=100.0, accuracy=0.75))
    assert (said["epochs_done"], said["updates_done"], said["images"], said["finished"]) == (2, 30, 2000, True)
    assert said["minutes"] == pytest.approx(20 / 60)
    assert (said["final_accuracy"], said["best_accuracy"], said["best_epoch"], said["split"]) == (0.75, 0.75, 2, "test")
    assert said["settings"]["epochs"] == 2
    begun = run_summary(made(accuracy=0.75, finished=False))
    assert (begun["final_accuracy"], begun["last_accuracy"]) == (None, 0.75)


def test_a_runs_lines_are_flags_and_no_python():
    first, settings, machine = run_lines(made("dni", lr=0.5, batch_size=32, options={"target": "mean"}))
    assert "finished, 2 of 2 epochs, 30 updates, 2,000 images, 20.0 seconds" in first
    assert "--lr 0.5" in settings
    assert "--batch-size 32" in settings
    assert "--set target=mean" in settings
    assert "zero_bias" not in settings  # at its default
    assert not {"{", "}", "None", "True", "'"} & set(settings)
    assert machine == "  cpu, 1 thread, torch 2.14.1, gradlens 0.1.0"
    assert run_lines(made(finished=False))[0].startswith("runs/bp-s0: unfinished, 2 of 2 epochs")


def test_a_table_is_of_one_experiment_and_of_finished_runs():
    runs = [made(), made("dgl"), made(width=4), made("dni", finished=False)]
    first, second = comparison_tables(runs)
    assert [row[0].text for row in first.rows] == ["bp", "dgl"]
    assert [row[0].text for row in second.rows] == ["bp"]
    assert first.title.startswith("digits · basic-cnn: final cosine")
    assert second.title.startswith("digits · basic-cnn · width 4: final cosine")
    (alone,) = comparison_tables(runs[:2])
    assert alone.title.startswith("final cosine")
    (unfinished,) = comparison_tables(runs[3:])
    assert unfinished.title.startswith("cosine so far of each")
    assert unfinished.title.endswith("test accuracy, at update 30 (not finished)")
    assert "final" not in unfinished.csv()
    assert "updates so far (not finished)" in unfinished.csv()
    assert column(unfinished, "updates so far (not finished)")[0].value == 30
    assert any("dni-s0 (30" in note for note in comparison_table(runs[2:]).notes)
    assert [row[0].text for row in unfinished.rows] == ["dni"]


def test_what_was_recorded_at_update_0_alone_is_not_called_final():
    (short,) = comparison_tables([made(steps=(0,)), made("dgl", steps=(0,))])
    assert short.title.startswith("cosine at update 0 of each")
    (mixed,) = comparison_tables([made(), made("dgl", steps=(0,))])
    assert mixed.title.startswith("final cosine")
    assert any("the untrained network, was recorded of dgl: --record-every is longer" in note for note in mixed.notes)
