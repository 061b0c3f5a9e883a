"""Verdicts: from the values of a results file to a corrected verdict, with what it could have seen."""

import math
import statistics

import numpy as np
import pytest

from analyses.saved_effects import saved_effects
from analyses.verdicts.decision import REFUTED, SUPPORTED, UNDECIDED, Test, _measure, _p_of_all, all_of, decide, details, effects, measured
from analyses.verdicts.wording import in_words, notes_in_words, power_in_words, what_would_decide
from gradlens.reporting.statistics import interval


def results(**groups):
    return {"values": {"accuracy": groups}, "minutes": dict.fromkeys(groups, 2.0)}


def above(name="b-above-a", more="b", less="a", **changes):
    return Test(name, f"{more} − {less}", "accuracy", {more: 1, less: -1}, "points", **{"at_least": 0.0, "primary_of": "s", **changes})


def test_effects_are_paired_by_seed_and_leave_out_missing_ones():
    test = Test("t", "", "accuracy", {"b": 1, "a": -1, "c": -0.5}, "", at_least=0)
    assert effects(test, results(a=[1, 2, 3, 9], b=[4, None, 9, 1], c=[2, 2, 4])) == [2.0, 4.0]
    with pytest.raises(KeyError):
        effects(test, results(a=[1.0], b=[2.0]))


def test_one_test_has_the_plain_interval_and_its_verdict():
    a, b = [50.0, 52.0, 51.0], [60.0, 61.5, 62.0]
    (found,) = decide([above()], results(a=a, b=b))
    assert found.effect == pytest.approx(interval(y - x for x, y in zip(a, b, strict=True)))
    assert (found.verdict, found.p) == (SUPPORTED, found.p_holm)
    (against,) = decide([above(more="a", less="b")], results(a=a, b=b))
    assert against.verdict == REFUTED


def test_one_seed_decides_nothing():
    (found,) = decide([above()], results(a=[1.0], b=[9.0]))
    assert found.verdict == UNDECIDED
    assert math.isnan(found.p)
    assert math.isnan(found.effect.low)
    assert power_in_words(found) == "one seed decides nothing"
    assert what_would_decide(found) == "10 seeds would see 1 of their standard deviations, 40 minutes of training"


def test_holm_can_turn_a_decided_interval_into_an_undecided_verdict():
    rng = np.random.default_rng(0)
    groups = {name: list(rng.normal(size=10)) for name in ("a", *(f"n{i}" for i in range(9)))}
    noise = rng.normal(size=10)
    groups["b"] = list(np.array(groups["a"]) + 0.8 + (noise - noise.mean()))
    tests = [above(), *(above(f"t{i}", f"n{i}", primary_of=f"s{i}") for i in range(9))]
    alone, among = decide(tests[:1], results(**groups))[0], decide(tests, results(**groups))[0]
    assert (alone.verdict, among.verdict) == (SUPPORTED, UNDECIDED)
    assert among.p < 0.05 < among.p_holm
    assert among.effect.low > 0


def test_further_tests_do_not_weigh_on_primary_ones():
    data = results(a=[50.0, 52.0, 51.0], b=[53.0, 54.0, 56.0])
    (alone,) = decide([above()], data)
    with_more, *rest = decide([above(), *(above(f"x{i}", "a", "b", primary_of="", at_least=float(i)) for i in range(6))], data)
    assert with_more.p_holm == with_more.p
    assert all(further.p_holm > further.p for further in rest)
    assert alone.effect.mean == with_more.effect.mean


def test_equal_spreads_are_pooled_over_differences_but_not_over_plain_values():
    rng = np.random.default_rng(5)
    base, noise = 50 + rng.normal(size=8), rng.normal(size=8)
    data = results(a=list(base), b=list(base + noise), c=list(base), d=list(base + noise[::-1]))
    tests = [above("p", "b", "a"), above("q", "d", "c", primary_of="r"), Test("v", "", "accuracy", {"a": 1}, "%", at_least=10)]
    p, q, v = decide(tests, data)
    assert [found.spread.pooled for found in (p, q, v)] == [True, True, False]
    assert p.spread == q.spread
    assert p.spread.df == pytest.approx(14)
    width = [f.effect.high - f.effect.low for f in (p, q)]
    assert width[0] == pytest.approx(width[1])


def test_ceilings_have_no_interval_of_zero_width():
    fits = Test("fits", "training accuracy", "accuracy", {"a": 1}, "%", at_least=99.5, primary_of="s")
    (ten,) = decide([fits], results(a=[100.0] * 10))
    assert (ten.verdict, ten.seeds) == (SUPPORTED, 10)
    assert math.isnan(ten.effect.low)
    assert ten.p == pytest.approx(2 * 0.5**10)
    assert "100 % with every seed" in in_words(ten)
    (three,) = decide([fits], results(a=[100.0] * 3))
    assert three.verdict == UNDECIDED
    (tie,) = decide([above()], results(a=[7.0] * 9, b=[7.0] * 9))
    assert (tie.verdict, tie.p) == (UNDECIDED, 1.0)


def test_undecided_tests_name_seeds_and_cost():
    (found,) = decide([above(at_least=1.0)], results(a=[50.0, 52.0, 51.0, 50.5], b=[52.5, 53.0, 53.5, 51.0]))
    assert found.verdict == UNDECIDED
    assert found.minutes == pytest.approx(found.needed * 4.0)
    assert f"{found.needed} seeds would decide it" in what_would_decide(found)


def test_a_difference_of_differences():
    test = Test("dd", "", "accuracy", {"ba": 1, "aa": -1, "bp": -1, "ap": 1}, "points", within=1)
    rng = np.random.default_rng(1)
    groups = {name: list(rng.normal(size=10)) for name in ("ba", "aa", "bp", "ap")}
    (found,) = decide([test], results(**groups))
    wanted = interval(a - b - c + d for a, b, c, d in zip(groups["ba"], groups["aa"], groups["bp"], groups["ap"], strict=True))
    assert found.effect == pytest.approx(wanted)


def test_a_test_without_a_bound_is_refused():
    with pytest.raises(ValueError, match="no bound"):
        _ = Test("t", "", "accuracy", {"a": 1}, "").bound


def test_an_effect_that_was_saved_alone_is_decided_as_its_values_would_be():
    values = {"loss": {"a": [3.1, 2.7, 4.0, 3.3], "b": [1.2, 1.9, 2.2, 0.7], "c": [5.0, 9.0, 1.0, 4.0]}}
    test = Test("a-b", "a - b", "loss", {"a": 1, "b": -1}, "nats", at_least=1.0, primary_of="a")
    other = Test("a-c", "a - c", "loss", {"a": 1, "c": -1}, "nats", at_least=1.0)
    (expected,) = decide([test], {"values": values})
    gains = [a - b for a, b in zip(values["loss"]["a"], values["loss"]["b"], strict=True)]
    results = {"effects": {"a-b": {"mean": statistics.fmean(gains), "sd": statistics.stdev(gains), "n": 4}}}
    assert measured([test, other], results) == [test]
    (found,) = decide([test], results)
    assert found.effect == pytest.approx(expected.effect)
    assert found.p == pytest.approx(expected.p)
    assert (found.verdict, found.seeds) == (expected.verdict, 4)
    both = decide([test, other], {"values": {"loss": {k: values["loss"][k] for k in ("a", "c")}}, **results})
    assert both[0].effect == pytest.approx(expected.effect)  # what was saved alone is not pooled with other differences


def test_a_saved_interval_gives_back_its_standard_deviation():
    values = [1.0, 2.5, 2.2]
    mean, low, high, n = interval(values)
    claims = [{"claim": "so it is", "difference": [mean, low, high], "seeds": n}]
    assert saved_effects({"claims": claims}, {"it": "so it is"})["it"] == pytest.approx(
        {"mean": mean, "sd": statistics.stdev(values), "n": 3}
    )


# ---------------------------------------------------------------------------------------------- several things at once


def both(**changes):
    return all_of(
        "both", "b above a, and c above a", above("b-a", "b", "a", primary_of=""), above("c-a", "c", "a", primary_of=""), **changes
    )


A, UP, DOWN = [50.0, 52.0, 51.0, 50.5], [55.0, 56.5, 56.0, 55.6], [46.0, 47.5, 46.5, 45.0]


def test_all_parts_must_be_supported_and_the_largest_p_counts():
    (whole,) = decide([both(primary_of="s")], results(a=A, b=UP, c=[53.0, 54.2, 53.1, 53.4]))
    assert whole.verdict == SUPPORTED
    assert whole.p == max(part.p for part in whole.parts)
    assert whole.deciding is whole.parts[1]
    assert [part.verdict for part in whole.parts] == [SUPPORTED, SUPPORTED]
    (alone, _) = decide([above("b-a"), above("c-a", "c")], results(a=A, b=UP, c=UP))
    assert whole.parts[0].effect == alone.effect


def test_one_part_refutes_with_its_p_times_the_number_of_parts():
    (whole,) = decide([both(primary_of="s")], results(a=A, b=UP, c=DOWN))
    assert whole.verdict == REFUTED
    assert whole.p == 2 * whole.parts[1].p
    assert whole.deciding is whole.parts[1]
    slightly = [a - d for a, d in zip(A, (0.4, 1.1, 0.3, 0.9), strict=True)]
    (chance,) = decide([both(primary_of="s")], results(a=A, b=UP, c=slightly))
    assert 0.025 < chance.parts[1].p < 0.05  # one of two parts may be so by chance
    assert chance.verdict == UNDECIDED


def test_otherwise_it_is_undecided_and_the_part_that_decides_says_what_it_takes():
    (whole,) = decide([both(primary_of="s")], results(a=A, b=UP, c=[51.0, 52.5, 50.0, 51.9]))
    assert whole.verdict == UNDECIDED
    assert whole.needed >= whole.parts[1].seeds
    assert whole.minutes == pytest.approx(whole.needed * 6.0)  # of three groups, each once
    (one,) = decide([both(primary_of="s")], results(a=A, b=UP, c=[60.0]))
    assert (one.verdict, one.seeds) == (UNDECIDED, 1)
    assert math.isnan(one.p)
    assert "10 seeds would see" in what_would_decide(one)


def test_a_test_of_parts_is_one_test_among_others():
    data = results(a=A, b=UP, c=UP, d=DOWN)
    whole, other = decide([both(primary_of="s"), above("d-a", "d", primary_of="t")], data)
    assert whole.p_holm == pytest.approx(max(min(1.0, 2 * whole.p), other.p_holm if other.p < whole.p else 0.0))
    assert measured([both()], results(a=A, b=UP)) == []


def test_a_minimum_over_two_effects_is_biased_and_their_parts_are_not():
    """Two true effects of half a standard deviation: the mean of their minima lies below 0, and a test of it refutes."""
    rng = np.random.default_rng(3)
    wrong = {"minimum": 0, "parts": 0}
    for _ in range(400):
        gains = rng.normal(0.5, 1.0, size=(2, 30))
        data = {"values": {"accuracy": {"a": [0.0] * 30, "b": list(gains[0]), "c": list(gains[1]), "least": list(gains.min(0))}}}
        least = Test("least", "", "accuracy", {"least": 1}, "", at_least=0.25)  # both are twice as large
        parts = all_of("p", "", *(Test(g, "", "accuracy", {g: 1}, "", at_least=0.25) for g in "bc"))
        holds = {"minimum": gains.min(0).mean() > 0.25, "parts": gains.mean(1).min() > 0.25}
        for name, test in (("minimum", least), ("parts", parts)):
            wrong[name] += decides(test, data) and not holds[name]
    assert wrong["minimum"] > 100
    assert wrong["parts"] <= 20


def shrinking():
    plain, other = {"b": 1, "a": -1}, {"bb": 1, "aa": -1}
    return all_of(
        "shrinks",
        "",
        *(
            Test(f"s{sign}", "", "accuracy", {**plain, **{g: -sign * w for g, w in other.items()}}, "", at_least=0, toward=plain)
            for sign in (1, -1)
        ),
    )


def sizes(rng, plain, other, noise, seeds=10):
    """Values of four groups whose two differences have these means and standard deviations."""
    zero = [0.0] * seeds
    return results(a=zero, aa=zero, b=list(rng.normal(plain, noise[0], seeds)), bb=list(rng.normal(other, noise[1], seeds)))


@pytest.mark.parametrize("direction", [1, -1])
def test_a_difference_is_smaller_whatever_its_sign(direction):
    rng = np.random.default_rng(4)
    for other, verdict in ((0.5, SUPPORTED), (-0.5, SUPPORTED), (5.0, REFUTED), (-5.0, REFUTED)):
        (found,) = decide([shrinking()], sizes(rng, 2.0 * direction, other, (0.5, 0.5)))
        assert found.verdict == verdict


def decides(test, data):
    """Whether one test alone is decided; what it could have seen, which takes long, is left out."""
    ((_, parts),) = _measure([test], data)
    return _p_of_all(parts) <= 0.05


@pytest.mark.parametrize(("plain", "other"), [(0.0, 0.0), (2.0, 2.0), (-2.0, 2.0), (0.4, -0.4)])
@pytest.mark.parametrize("noise", [(1.0, 1.0), (3.0, 1.0), (1.0, 3.0)])
def test_equal_sizes_are_called_different_in_5_of_100_at_most(plain, other, noise):
    """Nominal size: 2.5 % supported, 1.25 % refuted where the size is far from 0, less where it is not; 400 repetitions, ± 2 %."""
    rng = np.random.default_rng(5)
    wrong = sum(decides(shrinking(), sizes(rng, plain, other, noise)) for _ in range(400)) / 400
    assert wrong <= 0.065
    if abs(plain) == 2.0 and noise == (1.0, 1.0):
        assert wrong >= 0.015


def test_sizes_seed_by_seed_or_one_part_alone_are_called_different_too_often():
    """What the test of several parts replaces: noise alone makes |d| larger, and the direction of the data makes one part positive."""
    rng = np.random.default_rng(6)
    by_seed = Test("d", "", "accuracy", {"b": 1, "bb": -1}, "", at_least=0)
    counts = {"by seed": 0, "one part": 0}
    for _ in range(400):
        data = sizes(rng, 0.0, 0.0, (3.0, 1.0))
        counts["one part"] += decides(shrinking().parts[0], data)
        groups = {name: [abs(v) for v in values] for name, values in data["values"]["accuracy"].items()}
        counts["by seed"] += decides(by_seed, results(**groups))
    assert counts["by seed"] > 200
    assert counts["one part"] >= 15


# --------------------------------------------------------------------------------------------- every run, other scripts


def test_every_run_must_keep_the_bound():
    every = Test("all", "share of the bound", "accuracy", {"a": 1, "b": 1}, "", within=1, every=True, repeats="run")
    (found,) = decide([every], results(a=[0.2, 0.9], b=[0.1, 0.3, None]))
    assert (found.verdict, found.seeds, found.held, found.dropped) == (SUPPORTED, 4, 4, 1)
    assert in_words(found) == "4 of 4 runs within ±1, the furthest 0.9"
    assert "so many runs show an exception where 33 % or more of all are" in notes_in_words(found)
    (broken,) = decide([every], results(a=[0.2, 0.1], b=[0.1, 1.1]))  # though their mean is far below
    assert (broken.verdict, broken.held) == (REFUTED, 3)
    _, other = decide([every, above(primary_of="")], results(a=A, b=UP))
    assert other.p_holm == other.p  # it has no p that others would be corrected for


def test_tests_of_the_scripts_other_studies_count():
    data = results(a=A, b=[50.9, 52.5, 51.8, 51.9])
    (alone,) = decide([above()], data)
    (among,) = decide([above()], data, [([above("other")], results(a=A, b=UP)), ([], {})])
    assert among.p == alone.p
    assert among.p_holm == pytest.approx(min(1.0, max(alone.p, 2 * min(alone.p, decide([above()], results(a=A, b=UP))[0].p))))
    assert among.visible > alone.visible


def test_costs_are_of_the_groups_or_else_of_the_study():
    data = results(a=[50.0, 52.0, 51.0], b=[50.5, 53.5, 50.0])
    (found,) = decide([above()], {**data, "minutes": {"a": 1.0}, "minutes_a_seed": 7.0})
    assert found.minutes == found.needed * 7.0


def test_more_than_a_thousand_seeds_are_told_with_what_a_hundred_would_show():
    noise = [5.0, -5.0, 4.0, -4.0, 3.0, -3.0]
    (found,) = decide([above()], results(a=[0.0] * 6, b=[n + 0.001 for n in noise]))
    assert found.needed is None
    assert "more than a thousand seeds at the measured distance; 100 would show a distance of" in what_would_decide(found)
    assert "400 minutes" in what_would_decide(found)


def test_a_margin_that_few_seeds_cannot_find_names_how_many_can():
    near = Test("n", "", "accuracy", {"b": 1, "a": -1}, "points", within=1)
    (found,) = decide([near], results(a=[0.0, 1.0, 2.0], b=[0.5, 1.1, 1.0]))
    assert found.visible > 1
    assert "too few seeds to find it within the bound: that takes" in power_in_words(found)


def test_details_name_their_sentence():
    first, second = details("s", above("x", primary_of=""), above("y", primary_of=""))
    assert (first.about, second.about, first.name) == ("s", "s", "x")
