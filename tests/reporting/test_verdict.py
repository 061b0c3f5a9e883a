"""The verdict's sentences say what made-up runs hold, and no more."""

import doctest
import math

import numpy as np
import pytest
from made_runs import LAYERS, made
from scipy import stats

from gradlens.reporting.html import standings as reporting_html_standings
from gradlens.reporting.html import wording
from gradlens.reporting.html.notices import differences, notices
from gradlens.reporting.html.questions import answers
from gradlens.reporting.html.standings import below_top, chance_limit, method_summaries
from gradlens.reporting.html.verdict import headline, verdict_line
from gradlens.training.run_groups import group_runs

NAN = math.nan


def stood(*runs):
    found = group_runs(runs)
    return {s.label: s for s in method_summaries(found)}, notices(found)


def said(*runs):
    found, told = stood(*runs)
    return " ".join(headline(list(found.values()), told))


def three(method, accuracies, cosines, **more):
    return [made(method, seed, accuracy, cosine, **more) for seed, (accuracy, cosine) in enumerate(zip(accuracies, cosines, strict=True))]


@pytest.mark.parametrize("module", [wording, reporting_html_standings])
def test_doctests(module):
    assert doctest.testmod(module).failed == 0


def test_one_method_beside_bp():
    found, _ = stood(made(accuracy=0.6), made("dgl", accuracy=0.475, cosines=(0.2, 0.6, 1.0, 1.0, 1.0), speed=50.0))
    text = verdict_line(found["dgl"])
    assert text.gradient == "Cosine 0.60; worst at block1.conv (0.20)."  # (0.2 + 0.6 + 1) / 3: the top block is left out
    assert text.accuracy == "47.5 % test accuracy, 12.5 points below bp (one seed)."
    assert text.time == "2.0 × bp's time an image."
    assert verdict_line(found["bp"]).gradient == "Uses the true gradient itself."
    assert verdict_line(found["bp"]).accuracy == "60.0 % test accuracy."


def test_means_and_intervals_are_those_of_the_seeds():
    bp = three("bp", (0.60, 0.62, 0.61), [(1,) * 5] * 3)
    cosines = [(0.1, 0.3, 0.8, 1, 1), (0.2, 0.3, 0.7, 1, 1), (0.3, 0.3, 0.9, 1, 1)]
    dni = three("dni", (0.50, 0.53, 0.52), cosines)
    found, _ = stood(*bp, *dni)
    per_seed = [sum(row[:3]) / 3 for row in cosines]
    low, high = stats.t.interval(0.95, 2, loc=sum(per_seed) / 3, scale=stats.sem(per_seed))
    assert found["dni"].below.mean == pytest.approx(sum(per_seed) / 3)
    assert (found["dni"].below.low, found["dni"].below.high) == pytest.approx((low, high))
    points = [-0.10, -0.09, -0.09]  # pair by pair
    low, high = stats.t.interval(0.95, 2, loc=sum(points) / 3, scale=stats.sem(points))
    assert found["dni"].against.points[:3] == pytest.approx((sum(points) / 3, low, high))
    assert verdict_line(found["dni"]).accuracy == f"51.7 % test accuracy, 9.3 points below bp (−{-100 * low:.1f} to −{-100 * high:.1f})."


def test_a_difference_whose_interval_holds_zero_is_not_distinguished():
    found, _ = stood(*three("bp", (0.5, 0.6, 0.55), [(1,) * 5] * 3), *three("dgl", (0.55, 0.55, 0.56), [(0.5,) * 5] * 3))
    assert "not distinguishable" in verdict_line(found["dgl"]).accuracy
    assert found["dgl"].against.points.low < 0 < found["dgl"].against.points.high


def test_chance_at_the_worst_layer():
    seeds = [(0.10, 0.5, 1, 1, 1), (0.12, 0.5, 1, 1, 1), (0.11, 0.5, 1, 1, 1)]
    like = [made("dni", i, cosines=c, nulls=(c[0] + d, 0, 0, 0, 0)) for i, (c, d) in enumerate(zip(seeds, (0.05, -0.05, 0), strict=True))]
    above = [made("dni", i, cosines=c, nulls=(0.01, 0, 0, 0, 0)) for i, c in enumerate(seeds)]
    gradient = verdict_line(stood(*like)[0]["dni"]).gradient
    assert gradient.endswith("worst at block1.conv (0.11, not distinguishable from chance by 3 seeds).")
    assert verdict_line(stood(*above)[0]["dni"]).gradient.endswith("worst at block1.conv (0.11).")
    assert verdict_line(stood(above[0])[0]["dni"]).gradient.endswith("worst at block1.conv (0.10, where chance gives 0.01).")


def test_nearest_and_farthest():
    runs = [
        *three("bp", (0.6, 0.6, 0.6), [(1,) * 5] * 3),
        *three("dgl", (0.55, 0.56, 0.55), [(0.8, 0.8, 0.8, 1, 1), (0.82, 0.82, 0.82, 1, 1), (0.81, 0.81, 0.81, 1, 1)]),
        *three("fa", (0.5, 0.51, 0.5), [(0.82, 0.82, 0.82, 1, 1), (0.8, 0.8, 0.8, 1, 1), (0.80, 0.80, 0.80, 1, 1)]),
        *three("dni", (0.4, 0.41, 0.4), [(0.0, 0.1, 0.0, 1, 1), (0.0, 0.1, 0.1, 1, 1), (0.0, 0.1, 0.0, 1, 1)]),
    ]
    text = said(*runs)
    assert "Below the output block the gradient of dgl is nearest to the true one (cosine 0.81; not distinguishable: fa)" in text
    assert ", that of dni farthest (0.04)." in text
    assert "dni is 20 (18.2 to 21.1) points worse than backprop (60.0 %), fa 9.7 (8.2 to 11.1), dgl 4.7 (3.2 to 6.1)." in text
    assert "In brackets: 95 % intervals over seeds." in text


def test_layers_without_gradient_are_named_and_not_ranked():
    runs = [
        made(),
        made("greedy", cosines=(NAN, NAN, 1, 1, 1)),
        made("shallow", cosines=(NAN,) * 3 + (1, 1)),
        made("dgl", cosines=(0.5,) * 5),
    ]
    found, _ = stood(*runs)
    assert (
        verdict_line(found["greedy"]).gradient
        == "Cosine 1.00 in the 1 of 3 layers that have one, no gradient at block1.conv and block2.conv."
    )
    assert verdict_line(found["shallow"]).gradient == "Uses no gradient below the output block at the end."
    assert said(*runs).endswith(
        "The gradient of dgl has cosine 0.50 with the true one below the output block; worst at block1.conv (0.50). "
        "At the end greedy and shallow leave layers below the output block untrained."
    )


def test_a_cosine_that_is_missing_for_another_reason_is_not_called_untrained():
    found, _ = stood(made("dgl", cosines=(NAN, NAN, NAN, 1, 1), norm_ratio=1.0))
    assert verdict_line(found["dgl"]).gradient == "No cosine below the output block: one of the two gradients is zero."


def test_without_bp_the_page_says_what_cannot_be_shown():
    text = said(made("dgl", path="runs/my run"))
    assert "No bp is among these runs: the cost of a rule in accuracy or time is unknown." in text
    assert "`gradlens train bp --config 'runs/my run/config.json'` makes one." in text
    found, _ = stood(made("dgl"))
    assert verdict_line(found["dgl"]).accuracy == "50.0 % test accuracy; no bp run on the same data and network."
    assert verdict_line(found["dgl"]).time == ""


def test_only_bp():
    assert said(made(), made(seed=1)) == "Only bp is here: it uses the true gradient, so there is no distance to report."


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"data": "mnist", "fingerprint": "beef"}, "different data: data digits (bp) or mnist (dgl)"),
        ({"fingerprint": "beef"}, "different data: data hash f00d (bp) or beef (dgl)"),
        ({"label_noise": 0.5}, "different data: label noise 0.0 (bp) or 0.5 (dgl)"),
        ({"model": "mlp"}, "different networks: model basic-cnn (bp) or mlp (dgl)"),
        ({"width": 16}, "different networks: width none (bp) or 16 (dgl)"),
    ],
)
def test_different_data_or_networks_are_reported_and_not_ranked(settings, words):
    runs = made(), made("dgl", cosines=(0.5,) * 5, accuracy=0.4, **settings)
    found, told = stood(*runs)
    assert [n.text for n in told if n.unlike] == [f"These runs have {words}."]
    assert said(*runs) == "These runs have different data or networks: they are listed separately below and not ranked."
    assert found["dgl"].against is None


def test_one_set_of_images_by_two_paths_is_one_data_set():
    _, told = stood(made(data="digits"), made("dgl", data="elsewhere/digits"))
    assert not any(n.unlike for n in told)


def test_other_settings_unfinished_runs_and_single_seeds_are_reported():
    _, told = stood(made(lr=1e-3), made("dgl", lr=1e-4, finished=False), made("dni", seed=1, lr=1e-4), made("dni", lr=1e-4))
    texts = [n.text for n in told]
    assert texts == [
        "Besides the rule, they differ in: lr 0.001 (bp) or 0.0001 (dgl and dni).",
        "Not finished, and shown as far as they were trained: dgl-s0 (30 updates).",
        "One seed only, so without intervals: bp and dgl. A small difference may be chance.",
    ]


def test_an_unfinished_run_says_so_in_its_line():
    found, _ = stood(made(), made("dgl", finished=False))
    assert verdict_line(found["dgl"]).accuracy.startswith("Unfinished: 50.0 % test accuracy")


def test_runs_of_another_length_are_not_ranked_in_accuracy():
    runs = made(), made("greedy", accuracy=0.9, epochs=6), made("dgl", accuracy=0.45)
    found, _ = stood(*runs)
    assert verdict_line(found["greedy"]).accuracy == "90.0 % test accuracy, 40.0 points above bp (one seed; 6 epochs against 2)."
    assert said(*runs).startswith("dgl is 5.0 points worse than backprop (50.0 %). One seed each: small differences may be chance. Below")


def test_no_gradients_recorded():
    found, told = stood(made(), made("dgl", steps=()))
    assert verdict_line(found["dgl"]).gradient == "Recorded no gradients."
    assert any("No gradients were recorded (--record-every 0) of dgl" in n.text for n in told)


def test_a_run_with_nothing_but_its_config():
    bare = made("dgl", steps=(), finished=False)
    bare.metrics.clear()
    bare.timing.clear()
    found, told = stood(made(), bare)
    assert verdict_line(found["dgl"]).accuracy == "Unfinished: no accuracy on held-out images."
    assert any("dgl-s0 (0 of 8 updates)" in n.text for n in told)


def test_times_of_one_seed_are_distinguished_when_no_epochs_overlap():
    near, far = stood(made(), made("dgl", speed=99.0))[0], stood(made(), made("dgl", speed=50.0))[0]
    assert (near["dgl"].against.times_differ, far["dgl"].against.times_differ) == (False, True)
    assert verdict_line(near["dgl"]).time == "Time not distinguishable from bp's."
    assert verdict_line(far["dgl"]).time == "2.0 × bp's time an image."


def test_times_of_an_unsteady_machine_say_how_unsteady():
    busy = made("dgl", speed=90.0)
    pace = enumerate((70.0, 140.0, 90.0, 100.0))
    busy.timing[:] = [busy.timing[0]._replace(epoch=i, images_per_s=speed) for i, speed in pace]
    seconds = sorted(1 / speed for speed in (70, 140, 90, 100))
    quarter = [seconds[i] + 0.25 * (seconds[i + 1] - seconds[i]) * w for i, w in ((0, 3), (2, 1))]  # linear between order statistics
    middle = (seconds[1] + seconds[2]) / 2
    spread = (quarter[1] - quarter[0]) / middle
    found, _ = stood(made(), busy)
    assert verdict_line(found["dgl"]).time == f"Time not distinguishable from bp's: its epochs vary by {100 * spread:.0f} %."


# ------------------------------------------------------------------------------------------------ one seed: what may be chance


def answering(images, *runs):
    """The runs with that many test images."""
    for run in runs:
        run.info["images"] = {"train": 1000, "test": images}
    return runs


def test_one_seed_has_one_limit_below_which_a_difference_may_be_chance():
    accuracies = {"bp": 0.989, "dgl": 0.989, "kp": 0.984, "cdni": 0.967, "dni": 0.85}
    runs = answering(364, *[made(method, accuracy=accuracy) for method, accuracy in accuracies.items()])
    p, q, n = (0.989 * 364 + 1) / 366, (0.967 * 364 + 1) / 366, 366
    limit = stats.norm.ppf(0.975) * math.sqrt(p * (1 - p) / n + q * (1 - q) / n)  # cdni's, the largest that a difference is within
    assert limit > 0.022
    assert said(*runs[:5]).startswith(
        "dgl is as accurate as backprop (98.9 %). cdni is 2.2 points worse, kp 0.5, which may be chance. dni is 14 points worse."
        f" One seed each: differences below {math.ceil(1000 * limit) / 10:.1f} points may be chance (by the draw of 364 test images alone)."
    )
    sure = said(*answering(10_000, *runs))
    assert "cdni 2.2" in sure.split(", which may be chance")[-1]


def test_the_limit_holds_in_drawn_answers():
    """Of two equally good networks, answers drawn at random, about one pair in twenty lies beyond it."""
    rng = np.random.default_rng(0)
    for share, images in ((0.9, 360), (0.5, 100)):
        found, _ = stood(*answering(images, made(accuracy=share), made("dgl", accuracy=share)))
        limit = chance_limit(found["bp"], found["dgl"])
        a, b = rng.binomial(images, share, (2, 20_000)) / images
        assert 0.03 < (abs(a - b) > limit).mean() < 0.06


def test_a_tie_needs_a_narrow_interval_over_seeds():
    wide = three("bp", (0.5, 0.6, 0.55), [(1,) * 5] * 3), three("dgl", (0.6, 0.5, 0.55), [(0.5,) * 5] * 3)
    assert said(*wide[0], *wide[1]).startswith("dgl is not distinguishable from backprop (55.0 %): the seeds differ too much. In brackets")
    close = three("bp", (0.5, 0.6, 0.55), [(1,) * 5] * 3), three("dgl", (0.5, 0.6, 0.55), [(0.5,) * 5] * 3)
    assert said(*close[0], *close[1]).startswith("dgl is as accurate as backprop (55.0 %).")


def test_many_rules_get_a_range():
    others = [made(name, accuracy=0.4 - 0.01 * i) for i, name in enumerate(("dgl", "fa", "kp", "dfa", "usf"))]
    assert said(made(accuracy=0.5), *others).startswith("usf, dfa, kp, fa and dgl are 10 to 14 points worse than backprop (50.0 %).")


def test_a_better_rule_is_called_better():
    assert said(made(accuracy=0.5), made("dgl", accuracy=0.6)).startswith("dgl is 10 points better than backprop (50.0 %).")


def test_unfinished_runs_are_not_ranked():
    text = said(made(), made("dgl", finished=False, accuracy=0.1), made("fa", accuracy=0.4))
    assert text.startswith("fa is 10 points worse than backprop (50.0 %). One seed")
    assert said(made(), made("dgl", finished=False)).startswith(
        "No other run was trained to its end as long as bp: accuracies are not ranked."
    )


def test_what_was_recorded_of_the_untrained_network_is_not_ranked():
    runs = made(), made("dgl", steps=(0,), cosines=(0.9,) * 5), made("fa", cosines=(0.2,) * 5), made("dni", cosines=(0.1,) * 5)
    text = said(*runs)
    assert "the gradient of fa is nearest" in text
    found, _ = stood(*runs)
    assert verdict_line(found["dgl"]).gradient.startswith("Cosine 0.90 of the untrained network, all that was recorded")
    assert "nearest" not in said(*runs[:2])


def test_cosines_written_alike_are_alike():
    text = said(made(), made("dgl", cosines=(0.501,) * 5), made("fa", cosines=(0.499,) * 5), made("dni", cosines=(0.1,) * 5))
    assert "nearest to the true one (cosine 0.50; not distinguishable: fa), that of dni farthest (0.10)." in text


# ------------------------------------------------------------------------------------------------------------ two questions


def asked(*runs):
    found, told = stood(*runs)
    return {a.question: a.text for a in answers(list(found.values()), told)}


def test_which_rule_and_whether_a_cosine_is_good_are_answered_from_the_numbers():
    found = asked(
        made(accuracy=0.9),
        made("dgl", accuracy=0.9, cosines=(0.39, 0.6, 1, 1, 1), nulls=(0.03,) * 5),
        made("kp", accuracy=0.85, cosines=(0.9, 0.9, 0.9, 1, 1)),
    )
    which, good = found["Which rule should I use?"], found["Is a cosine of 0.39 good?"]
    assert which.startswith("For accuracy alone, backprop: no rule here beats it by more than chance.")
    assert "dgl loses nothing here." in which
    assert "0.39 is dgl at block1.conv. Chance gives 0.03 there" in good
    assert "two halves of one batch have cosine 0.50 there." in good
    assert "here dgl (cosine below output block, accuracy: 0.66 and 90.0 %) ends no lower than kp (0.90 and 85.0 %)." in good


def test_a_rule_that_beats_backprop_is_named_and_nothing_is_answered_without_backprop():
    runs = answering(1000, made(accuracy=0.5), made("fa", accuracy=0.7, cosines=(0.2,) * 5))
    which = asked(*runs)["Which rule should I use?"]
    assert which.startswith("Here fa is more accurate than backprop")
    assert "without waiting" not in which  # fa waits for the blocks above
    assert asked(made("dgl")) == {}
    assert asked(made(), made("dgl", data="mnist", fingerprint="beef")) == {}


def test_times_on_another_machine_are_not_compared():
    found, _ = stood(made(), made("dgl", device="cuda"))
    assert verdict_line(found["dgl"]).time == "Time not comparable with bp's."


def test_time_ratio_is_the_geometric_mean_over_seeds():
    found, _ = stood(*[made(seed=i) for i in range(2)], made("dgl", 0, speed=50.0), made("dgl", 1, speed=25.0))
    logs = [math.log(2), math.log(4)]
    low, high = stats.t.interval(0.95, 1, loc=sum(logs) / 2, scale=stats.sem(logs))
    assert found["dgl"].against.time[:3] == pytest.approx((8**0.5, math.exp(low), math.exp(high)))


def test_the_bp_that_is_compared_with_is_the_one_with_most_settings_in_common():
    found, _ = stood(made(lr=1e-2, accuracy=0.9), made(lr=1e-3, accuracy=0.6), made("dgl", lr=1e-3, accuracy=0.5))
    assert found["dgl"].against.label == "bp lr=0.001"
    assert found["dgl"].against.points.mean == pytest.approx(-0.1)


def test_seeds_that_do_not_meet_give_no_interval():
    found, _ = stood(made(seed=0), made("dgl", seed=1, accuracy=0.4))
    assert verdict_line(found["dgl"]).accuracy == "40.0 % test accuracy, 10.0 points below bp (no seed in common)."


def test_below_top_of_one_block_is_all():
    assert below_top(["top.out"]) == ["top.out"]
    assert below_top(list(LAYERS)) == list(LAYERS[:3])


def test_differences_are_those_settings_and_facts_that_differ():
    runs = made(lr=1e-3), made("dgl", lr=1e-4, device="cuda")
    found = {d.name: d for d in differences(group_runs(runs))}
    assert found["lr"].values == {"bp": "0.001", "dgl": "0.0001"}
    assert found["head"].values["bp"] == "–"
    assert found["device"].kind == "made with"
    assert "epochs" not in found
    assert "data hash" not in found


def test_a_record_of_the_untrained_network_alone_is_called_one():
    _, told = stood(made(steps=(0,)), made("dgl", steps=(0, 10)))
    texts = [notice.text for notice in told]
    assert any(text.startswith("Of bp only the first update was recorded: all distances are those of untrained") for text in texts)
    assert not any("first update" in notice.text for notice in stood(made(), made("dgl"))[1])


def test_differences_are_corrected_for_the_number_of_comparisons():
    """One rule whose interval just leaves out 0 is better or worse alone, and not among four."""
    ones = [(1,) * 5] * 3
    bp = three("bp", (0.60, 0.60, 0.60), ones)
    near = three("dgl", (0.590, 0.577, 0.580), ones)
    others = [run for name in ("fa", "dfa", "dni") for run in three(name, (0.60, 0.61, 0.59), ones)]
    alone, _ = stood(*bp, *near)
    among, _ = stood(*bp, *near, *others)
    p = stats.ttest_1samp([-0.010, -0.023, -0.020], 0.0).pvalue
    assert (alone["dgl"].against.p, among["dgl"].against.p) == pytest.approx((p, 4 * p))
    assert p < 0.05 < 4 * p
    assert "dgl is 1.8 (0.1 to 3.5) points worse than backprop (60.0 %)." in said(*bp, *near)
    assert "comparisons" not in said(*bp, *near)
    text = said(*bp, *near, *others)
    assert "dgl is 1.8 (0.1 to 3.5) points worse, which may be chance." in text
    assert text.endswith("after Holm's correction for 4 comparisons.") or "after Holm's correction for 4 comparisons. " in text
    assert "not distinguishable after correction for all comparisons" in verdict_line(among["dgl"]).accuracy
