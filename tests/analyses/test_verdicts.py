"""Verdicts: from the values of a results file to a corrected verdict, with what it could have seen."""

import math
import statistics

import numpy as np
import pytest

from analyses.saved_effects import saved_effects
from analyses.verdicts.decision import REFUTED, SUPPORTED, UNDECIDED, Test, decide, effects, in_words, measured, what_would_decide
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
    assert what_would_decide(found) == "one seed decides nothing"


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
