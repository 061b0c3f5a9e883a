"""What the analyses of rules decide, and how their values come from what a results file says of runs. Their trainings are not run here."""

import json
import math
import os
from argparse import Namespace

import pytest

from analyses import all_methods, async_slowdown, gradient_similarity, greedy_heads, linear_separability, locking, random_labels
from analyses.figures.rule_figures import placed
from analyses.verdicts.decision import decide
from gradlens.runtime.text_files import write_text
from gradlens.training.comparison import ChosenRate


def verdicts(tests, values):
    return {found.test.name: found.verdict for found in decide(tests, {"values": values})}


def listed(label, seeds, **what):
    """What a results file says of the runs of some seeds, the last first; ``what``: split -> (key, values by seed)."""
    rows = [
        {"label": label, "seed": seed, "training_minutes": 1.5, **{split: {key: values[seed]} for split, (key, values) in what.items()}}
        for seed in range(seeds)
    ]
    return rows[::-1]


# ------------------------------------------------------------------------------------------------------ all_methods


def test_values_are_in_the_order_of_seeds_and_in_percent():
    rows = listed("bp", 3, train=("final_loss", [1.0, 2.0, 3.0]), test=("final_accuracy", [0.1, 0.2, 0.3]))
    for row in rows:
        row["test"]["best_accuracy"] = row["test"]["final_accuracy"] + 0.1
    values = all_methods.values_of(rows)
    assert values[all_methods.LOSS]["bp"] == [1.0, 2.0, 3.0]
    assert values[all_methods.FINAL]["bp"] == pytest.approx([10, 20, 30])
    assert values[all_methods.BEST]["bp"] == pytest.approx([20, 30, 40])


def test_signs_are_far_better_only_from_ten_points_on():
    def of(gain):
        groups = {rule: [50.0, 50.5, 49.8, 50.1] for rule in all_methods.SIGNED}
        return {all_methods.FINAL: {**groups, "fa": [50.0 - gain, 50.4 - gain, 49.9 - gain, 50.2 - gain]}}

    tests = [test for test in all_methods.TESTS if test.name == "signs-above-fa"]
    assert verdicts(tests, of(12))["signs-above-fa"] == "supported"
    assert verdicts(tests, of(8))["signs-above-fa"] == "not supported"


def test_slightly_worse_has_a_size_and_a_sign():
    def of(gap):
        return {all_methods.FINAL: {"bp": [50.0, 50.5, 49.8, 50.1], "dfa": [50.0 - gap, 50.4 - gap, 49.9 - gap, 50.2 - gap]}}

    tests = [test for test in all_methods.TESTS if test.name == "dfa-slightly-below-bp"]
    for gap, verdict, parts in (
        (3, "supported", ["supported", "supported"]),
        (8, "not supported", ["supported", "not supported"]),
        (-3, "not supported", ["not supported", "supported"]),
    ):
        (found,) = decide(tests, {"values": of(gap)})
        assert (found.verdict, [part.verdict for part in found.parts]) == (verdict, parts)


def test_all_steps_of_the_order_of_losses_must_hold():
    noise = [0.0, 0.01, -0.02, 0.015, -0.01]

    def of(*means):
        rules = ("bp", "chunked", "overlap", "dgl")
        return {
            all_methods.LOSS: {rule: [mean + (1 + i) * n for n in noise] for i, (rule, mean) in enumerate(zip(rules, means, strict=True))}
        }

    tests = [test for test in all_methods.TESTS if test.name == "loss-in-order"]
    assert verdicts(tests, of(1.0, 1.1, 1.2, 1.3)) == {"loss-in-order": "supported"}
    assert verdicts(tests, of(1.0, 1.2, 1.1, 1.3)) == {"loss-in-order": "not supported"}
    assert verdicts(tests, of(1.0, 1.1, 1.3, 1.2)) == {"loss-in-order": "not supported"}


def test_a_grid_goes_on_beyond_the_end_at_which_the_best_rate_lies(monkeypatch, tmp_path):
    asked = []

    def search(config, grid, share, context, watch):
        asked.append(tuple(grid))
        best = 0.03 if 0.03 in grid else max(grid)
        return Namespace(rate=lambda grid: ChosenRate(best, tuple(grid), best in (min(grid), max(grid))))

    monkeypatch.setattr(all_methods, "search_lr", search)
    monkeypatch.setattr(all_methods, "run_context_of", lambda args: all_methods_context(tmp_path))
    rate = all_methods.chosen_lr("fa", Namespace(data="cifar10", out=tmp_path), None)
    assert rate.lr == 0.03
    assert not rate.at_end
    assert asked == [all_methods.ADAM, (*all_methods.ADAM, 0.03, 0.1)]


def test_measurements_of_a_run_s_weights_are_kept_with_what_they_depend_on(monkeypatch, tmp_path, capsys):
    run, weights, made = Namespace(path=tmp_path), ["one"], []
    (tmp_path / "checkpoint.pt").touch()
    monkeypatch.setattr(all_methods, "checkpoint_digest", lambda run: weights[0])
    monkeypatch.setattr(all_methods, "data_of", lambda run: {"data": "digits", "images": 364})

    def measured(run, args):
        made.append(weights[0])
        return {("block1.conv", "cosine"): 0.25, ("block1.conv", "noise_ceiling"): math.nan}

    monkeypatch.setattr(all_methods, "measured", measured)
    for _ in range(2):
        found = all_methods.at_the_end(run, None)
        assert found.pop(("block1.conv", "cosine")) == 0.25
        assert math.isnan(found.pop(("block1.conv", "noise_ceiling")))
        assert not found
    assert made == ["one"]
    weights[0] = "two"
    all_methods.at_the_end(run, None)
    assert made == ["one", "two"]
    assert "another weights" in capsys.readouterr().out


@pytest.mark.parametrize("younger", [True, False])
def test_measurements_without_key_are_read_where_they_are_younger_than_the_weights(monkeypatch, tmp_path, younger):
    """Such a file is a list alone, as it was written before there were keys."""
    for name, age in (("checkpoint.pt", 50), ("at_the_end.json", 0 if younger else 100)):
        (tmp_path / name).write_text(json.dumps([["top.out", "cosine", 1.0], ["top.out", "noise_ceiling", None]]), encoding="utf-8")
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    monkeypatch.setattr(all_methods, "checkpoint_digest", lambda run: "weights")
    monkeypatch.setattr(all_methods, "data_of", lambda run: {})
    monkeypatch.setattr(all_methods, "measured", lambda run, args: {("top.out", "cosine"): 0.5})
    found = all_methods.at_the_end(Namespace(path=tmp_path), None)
    assert found["top.out", "cosine"] == (1.0 if younger else 0.5)
    assert len(found) == (2 if younger else 1)


def all_methods_context(out):
    from gradlens.training.context import RunContext

    return RunContext(out=out)


def test_a_rule_in_stages_has_its_own_epochs():
    settings = all_methods.settings_of("greedy", all_methods.EPOCHS, "cifar10")
    assert (settings["epochs"], settings["options"]) == (15, {"stage_epochs": 4})
    assert all_methods.settings_of("bp", all_methods.EPOCHS, "cifar10")["epochs"] == all_methods.EPOCHS


def test_whole_comparisons_come_first():
    configs = {name: [Namespace(seed=s, name=name) for s in range(n)] for name, n in (("bp", 3), ("kp", 2))}
    assert [(c.name, c.seed) for c in all_methods.seed_after_seed(configs)] == [("bp", 0), ("kp", 0), ("bp", 1), ("kp", 1), ("bp", 2)]


# ------------------------------------------------------------------------------- separability, heads, slow blocks


def test_separability_is_a_rise_with_depth_and_more_than_backprops_another_question():
    noise = [0.0, 0.4, -0.3, 0.1, -0.2, 0.3, -0.4, 0.2, -0.1, 0.0]
    rules = {"greedy": (50, 55, 58), "dgl": (50, 53, 54), "bp": (50, 55, 57), "shallow": (50, 45, 40)}
    values = {
        linear_separability.group(rule, block): [mean + n * (1 + i + at) / 4 for n in noise]
        for i, (rule, means) in enumerate(rules.items())
        for at, (block, mean) in enumerate(zip(linear_separability.BLOCKS, means, strict=True))
    }
    found = verdicts(linear_separability.TESTS, {linear_separability.PROBE: values})
    assert found["greedy-rises"] == "supported"
    assert found["dgl-rises-more"] == "not supported"
    assert linear_separability.rise_of(values, "greedy").mean == pytest.approx(8)
    fallen = {**values, "greedy block3": [40 + n for n in noise]}
    assert verdicts(linear_separability.TESTS, {linear_separability.PROBE: fallen})["greedy-rises"] == "not supported"


def test_heads_are_judged_by_the_network_and_by_probes_of_blocks():
    def run(hidden, seed, accuracy):
        return {"label": f"greedy stage_epochs=3 hidden={hidden}", "seed": seed, "test": {"final_accuracy": accuracy, "best_accuracy": 1.0}}

    def probe(accuracy):
        return {"rows": [{"block": b, "network": "trained", "labels": "true", "step": 1, "test": accuracy} for b in ("block1", "block2")]}

    runs = [run(h, s, 0.5 + h / 100 + s / 1000) for s in range(3) for h in greedy_heads.HIDDEN]
    values = greedy_heads.values_of(runs, [probe(0.4 + k / 100) for k in range(len(runs))])
    assert values[greedy_heads.NETWORK]["2"] == pytest.approx([52.0, 52.1, 52.2])
    assert values["probe of block1"]["1"] == pytest.approx([40, 43, 46])
    contrasts = {found.test.name: found.effect.mean for found in decide(greedy_heads.TESTS, {"values": values})}
    assert contrasts["deeper-heads"] == pytest.approx(1.5)
    assert contrasts["heads-3-2"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("label", "group"),
    [
        ("dgl", "dgl"),
        ("dgl-async slowed=none slowdown=1.0", "none slowed"),
        ("dgl-async slowed=3 slowdown=1.2", "block3 and top slowed 1.2 times"),
    ],
)
def test_runs_are_grouped_by_what_is_slow(label, group):
    assert async_slowdown.group_of(label) == group


def test_a_slow_block_may_lose_a_point():
    def of(loss):
        groups = {async_slowdown.slowed(unit, 1.2): [50.0 - loss, 50.3 - loss, 49.9 - loss] for unit in async_slowdown.UNITS.values()}
        return {async_slowdown.FINAL: {**groups, async_slowdown.NONE: [50.1, 50.2, 49.9]}}

    tests = async_slowdown.TESTS[:1]
    assert verdicts(tests, of(0.2))["slow-1.2"] == "supported"
    assert verdicts(tests, of(3))["slow-1.2"] == "not supported"


# ------------------------------------------------------------------- random labels, gradients, locking


def test_memorization_is_read_from_the_runs_of_a_results_file():
    runs = [
        *listed("bp", 3, **{"train-eval": ("final_accuracy", [0.9, 0.95, 1.0])}),
        *listed("dgl head=mlp pooled=no", 3, **{"train-eval": ("final_accuracy", [0.7, 0.8, 0.9])}),
    ]
    values = random_labels.values_of(runs)
    assert values[random_labels.FINAL] == {"bp": pytest.approx([90, 95, 100]), "dgl, a full MLP head": pytest.approx([70, 80, 90])}
    assert random_labels.minutes_by_label(runs) == {"bp": 1.5, "dgl, a full MLP head": 1.5}


def test_early_layers_differ_where_their_mean_is_away_from_one():
    near = {f"layer {k}": [0.05, 0.06, 0.04, 0.05] for k in (1, 2, 3, 4)}
    tests = [test for test in gradient_similarity.TESTS if test.name == "early-layers-away"]
    assert verdicts(tests, {gradient_similarity.AWAY: near})["early-layers-away"] == "not supported"
    far = {**near, "layer 1": [0.7, 0.72, 0.68, 0.7]}
    assert verdicts(tests, {gradient_similarity.AWAY: far})["early-layers-away"] == "supported"


def test_gains_are_those_of_three_rounds(tmp_path):
    row = '{{"method": "dgl", "how": "layers", "gain": 1.8, "low": 1.7, "high": 1.9}}'
    for folder, rounds in (("locking", 3), ("parallel", 3)):
        (tmp_path / folder).mkdir()
        text = f'{{"model": "vgg16", "rounds": {rounds}, "rows": [{row.format()}]}}'
        write_text(tmp_path / folder / ("measured_vgg16.json" if folder == "locking" else "vgg16.json"), text)
    assert locking.values_of(tmp_path) == {locking.GAIN: {"dgl, vgg16": [1.7, 1.8, 1.9]}}
    write_text(tmp_path / "parallel" / "vgg16.json", f'{{"model": "vgg16", "rounds": 5, "rows": [{row.format()}]}}')
    with pytest.raises(ValueError, match="5 rounds"):
        locking.values_of(tmp_path)


# ---------------------------------------------------------------------------------------------------------- figures


def test_rules_are_placed_by_their_accuracy():
    rows = placed({"fa": [40.0, 42.0], "bp": [60.0], "dgl": [55.0, 56.0, 57.0]})
    assert [(row.method, row.seeds) for row in rows] == [("bp", 1), ("dgl", 3), ("fa", 2)]
