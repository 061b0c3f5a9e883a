"""The scripts on synthetic gradients: what they measure against slow or closed forms, and what their tests would say of made-up values."""

import json
import math
from itertools import product

import pytest
import torch

from analyses import dni_unlocked, synthetic_theory
from analyses import synthetic_gradient_scale as scale
from analyses import synthetic_theory_depth as depth
from analyses.theory import synthetic_theory_linear as linear
from analyses.theory import synthetic_theory_plane as plane
from analyses.training import tuned_arms
from analyses.training.tuned_arms import Arm, Bench, Ended, Tuned, best_rate, beyond
from analyses.verdicts.decision import decide
from gradlens.gradients.backward import run_step
from gradlens.gradients.losses import LOSSES
from gradlens.methods.synthetic_gradients.dni_unlocked import DNIUnlocked
from gradlens.models.spec import ModelSpec
from gradlens.models.zoo import MODELS
from gradlens.runtime.errors import InputError
from gradlens.training.build import make_network_info

# ------------------------------------------------------------------------------------------------------------- tuned arms


def test_a_grid_grows_by_factors_of_about_three_and_only_where_its_end_is_best():
    assert beyond([1e-3, 3e-3, 1e-2], 3e-3) is None
    assert beyond([1e-3, 3e-3, 1e-2], 1e-2) == 3e-2
    assert beyond([1e-3, 3e-3, 1e-2], 1e-3) == 3e-4
    assert beyond([1e-3, 3e-3, 3e-2, 1e-2], 3e-2) == 0.1
    assert beyond([100.0, 30.0], 100.0) is None  # no further


@pytest.mark.parametrize("peak", [1e-4, 3e-3, 1.0])
def test_the_best_rate_is_found_wherever_it_lies_and_is_no_end(peak):
    best, tried = best_rate(lambda rate: -abs(math.log(rate / peak)))
    assert best == pytest.approx(peak)
    assert min(map(float, tried)) < best < max(map(float, tried))


def test_a_run_is_trained_once_and_a_diverged_one_has_no_accuracy(tmp_path, monkeypatch):
    bench = Bench({"data": "digits", "epochs": 9, "steps": 20, "batch_size": 64, "model": "mlp", "width": 8}, tmp_path)
    arm = Arm("bp", "bp", {})
    ended = bench.run(bench.config(arm, lr=1e-2, seed=0))
    assert 10 < ended.final <= ended.best <= 100
    monkeypatch.setattr(tuned_arms, "_trained", lambda config: Ended(math.nan, math.nan, 1.0))
    assert bench.run(bench.config(arm, lr=1e-2, seed=0)) == ended
    assert math.isnan(bench.run(bench.config(arm, lr=1e-1, seed=0)).final)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.usefixtures("rules_of_users")
def test_a_run_of_a_users_rule_is_trained_anew_when_its_file_has_changed(tmp_path, monkeypatch, capsys):
    rule = tmp_path / "mine.py"
    text = "from gradlens.methods.backprop import Backprop\n\n\nclass Rule(Backprop):\n    {}\n"
    finals = iter((50.0, 60.0, 70.0))
    monkeypatch.setattr(tuned_arms, "_trained", lambda config: Ended(next(finals), 99.0, 1.0))
    bench = Bench({"data": "digits", "epochs": 1, "model": "mlp", "width": 8}, tmp_path / "runs")

    def final(docstring):
        rule.write_text(text.format(docstring))
        return bench.run(bench.config(Arm("mine", f"{rule}:Rule", {}), lr=1e-2, seed=0)).final

    one, other = '"""One."""', '"""Other."""'
    assert [final(one), final(one), final(other)] == [50, 50, 60]
    assert "computed anew, it was made with another user's file" in capsys.readouterr().out
    (file,) = (tmp_path / "runs").iterdir()
    without = {name: value for name, value in json.loads(file.read_text()).items() if name != "key"}
    file.write_text(json.dumps(without))  # from before there were keys: its config records the fingerprint
    assert [final(other), final(one)] == [60, 70]


def test_where_every_rate_diverges_none_is_chosen():
    tried = []
    with pytest.raises(InputError, match="diverges at every learning rate from 1e-06 to 0.01"):
        best_rate(lambda rate: tried.append(rate) or -math.inf)
    assert len(tried) == 9


def test_a_rate_at_the_last_end_of_the_grid_is_named(capsys):
    assert best_rate(lambda rate: rate)[0] == tuned_arms.MOST
    assert "the best learning rate, 100, is an end of the grid" in capsys.readouterr().out


# ----------------------------------------------------------------------------------------------- scale of synthetic gradients


@pytest.mark.parametrize(("model", "width", "blocks"), [("mlp", 128, 3), ("basic-cnn", 16, 1)])
def test_the_law_gives_the_first_lengths_without_a_free_parameter(model, width, blocks):
    found = {r.interface: r.ratio for r in scale.lengths(model, width, 64, 0, scale.PUBLISHED, 0)}
    for below in range(blocks):
        assert found[2 - below] == pytest.approx(scale.predicted(model, 64, below), rel=0.35)


def test_after_a_step_of_adam_from_zero_the_units_are_worth_the_batch_size():
    one, other = (scale.lengths("mlp", 16, 32, 1, variant, 1)[-1].ratio for variant in ("zero start", scale.OURS))
    assert one / other == pytest.approx(32, rel=0.02)  # Adam's first step is the same, and N·δ is divided by N
    assert scale.lengths("mlp", 16, 32, 1, scale.OURS, 0)[-1].ratio == 0


def law_rows(exponent=1.0):
    """Lengths as the law has them, or with another exponent of N."""
    sizes = [(scale.FIXED_WIDTH, n) for n in scale.BATCHES] + [(w, scale.FIXED_BATCH) for w in scale.WIDTHS]
    for model, (width, batch), seed, (variant, updates) in product(("mlp", "basic-cnn"), sizes, range(scale.SEEDS), scale.FIRST):
        of_n, of_width = scale.EXPONENTS[variant]
        for below in range(3):
            value = scale.predicted(model, 1, below) * batch ** (of_n * exponent) * width**of_width * (1 + seed / 1000)
            yield scale.Length(model, width, batch, seed, 2 - below, updates, variant, value)


def scale_values(**accuracy):
    """A results file's values, made up."""
    runs = [Ended(0, 0, 60.0)] * scale.SEEDS
    groups = {}
    for name, _, variants, _ in scale.COMPARISONS:
        for arm in scale.arms(variants):
            level = next((v for key, v in accuracy.items() if key in arm.name.replace("·", "")), 50.0)
            groups[f"{name}: {arm.name}"] = Tuned(1e-3, {}, [r._replace(final=level + i / 100 + 0.1 * (i % 3)) for i, r in enumerate(runs)])
    return tuned_arms.accuracy_values(groups)


def test_what_the_law_gives_is_no_distance_from_it():
    for groups in scale.law_values(list(law_rows())).values():
        for group, values in groups.items():
            assert max(map(abs, values)) < 0.02 or "exponent" in group, group


@pytest.mark.parametrize(
    ("levels", "verdict"), [({"zero start": 97.0, "bp": 97.0}, "supported"), ({"zero start": 60.0, "bp": 97.0}, "not supported")]
)
def test_the_verdict_of_the_scale_follows_the_arms(levels, verdict):
    results = {"values": {**scale.law_values(list(law_rows())), **scale_values(**levels)}}
    found = {d.test.name: d.verdict for d in decide(scale.TESTS, results)}
    assert found["dni-reaches-bp"] == found["cdni-reaches-bp"] == verdict
    assert found["law-batch"] == "supported"
    other = {"values": {**scale.law_values(list(law_rows(1.2))), **scale_values(**levels)}}
    assert {d.test.name: d.verdict for d in decide(scale.TESTS, other)}["law-batch"] == "not supported"


# -------------------------------------------------------------------------------------------------------- unlocked variants


def unlocked(rule):
    """The rule on a small net, and a batch."""
    model = MODELS["mlp"](ModelSpec((1, 4, 4), 3, width=5, depth=2)).double()
    method = rule(make_network_info(model, (1, 4, 4), 3, LOSSES["ce"], 0), rule.Options()).double()
    for synthesiser in method.synthesisers:  # else all are zero
        torch.nn.init.normal_(synthesiser.rest.last.weight, generator=torch.Generator().manual_seed(1))
    g = torch.Generator().manual_seed(2)
    return model, method, torch.randn(8, 1, 4, 4, generator=g).double(), torch.randint(0, 3, (8,), generator=g)


def test_the_variant_uses_the_same_gradients_and_fits_them_at_the_synthetic_input():
    torch.manual_seed(0)
    model, method, x, y = unlocked(dni_unlocked.TrainedAtSyntheticInput)
    torch.manual_seed(0)
    _, plain, *_ = unlocked(DNIUnlocked)
    plain.load_state_dict(method.state_dict())
    ours, theirs = (run_step(m, list(model), x, y) for m in (method, plain))
    for k, update in ours.updates.items():
        assert torch.allclose(update.signal.delta, theirs.updates[k].signal.delta)
    method.load_state_dict(plain.state_dict())
    synthetic = method.inputs[0](x, None).detach().requires_grad_()
    hidden = model[1](synthetic)
    target = torch.autograd.grad(hidden, synthetic, ours.updates[1].signal.delta)[0] * len(x)  # N·δ
    loss = (method.synthesisers[0](synthetic.detach(), None) - target).square().sum() / len(x)
    loss.backward()
    found = ours.updates[0].aux_grads
    for name, parameter in method.synthesisers[0].named_parameters():
        assert torch.allclose(found[f"synthesisers.0.{name}"], parameter.grad), name


# ------------------------------------------------------------------------------------------ understanding synthetic gradients


def theory_values(rest=1e-9, gap_end=0.9, probe=80.0, noise=0.0):
    """A results file's values, made up."""
    jitter = [i / 1000 for i in range(10)]
    rows = [
        linear.Rest(s, h, seed, -1, 10, 1e-9, 1e-9, rest if s == "cdni" else 0.4, 0.0, 1e-9 if s == "cdni" else 0.1)
        for s, h, seed in product(("cdni", "dni"), (0, 1), linear.SEEDS)
    ]
    closed = [{"0 above": 1e-9, "1 above": 1e-9}] * 10
    points = [
        plane.PlanePoint(labels, net, m, seed, (1.0 if labels == "separable" else 0.6 + noise * (m == "bp")) - j / 100, 0.1)
        for labels, net, m in product(plane.LABELLINGS, plane.PLANE_NETS, ("bp", "cdni"))
        for seed, j in zip(linear.SEEDS, jitter, strict=True)
    ]
    looks = [
        plane.Looked(labels, seed, made, (1.0 if made == 1 else 0.3 if made < plane.LAST else gap_end) + j * (1 + made % 7), 0.0)
        for labels, made in product(plane.LABELLINGS, plane.LOOKS)
        for seed, j in zip(linear.SEEDS, jitter, strict=True)
    ]
    seen = [
        depth.Seen(
            net, seed, 1.0, 0.9 + i / 1000, [0.9] * 9 + [(probe if net == depth.EVERY else 95.0) / 100 + i / 1000], torch.rand(10, 8, 8)
        )
        for net in (*depth.NETS, depth.UNTRAINED)
        for i, seed in enumerate(depth.SEEDS)
    ]
    alike = {net: [[0.5 + i / 100] * 10 for i in range(5)] for net in (*depth.NETS, depth.UNTRAINED)}
    return linear.linear_values(rows, closed) | plane.plane_values(points, looks) | depth.deep_values(seen, alike)


def theory_verdicts(**made):
    return {d.test.primary_of or d.test.name: d.verdict for d in decide(synthetic_theory.TESTS, {"values": theory_values(**made)})}


def test_every_primary_test_of_the_theory_can_be_supported_and_refuted():
    good = theory_verdicts(gap_end=0.1, probe=80.0, noise=0.1)
    bad = theory_verdicts(rest=1e-2, gap_end=0.99, probe=95.0, noise=0.0)
    for key in ("critical-points", "log-loss-underfits", "implied-loss", "layers-differ-drastically"):
        assert (good[key], bad[key]) == ("supported", "not supported"), key
    assert good["implied-leaves"] == "not supported"
    assert bad["implied-leaves"] == bad["implied-approaches"] == "supported"


def test_what_still_moves_says_nothing_of_fixed_points():
    rows = [linear.Rest("cdni", 0, seed, -1, 10, 1e-2 * (seed == 5), 1e-9, 1.0, 0.0, 0.1) for seed in linear.SEEDS]
    found = linear.linear_values(rows, [{"0 above": 0.0, "1 above": 0.0}])["true gradient at rest"]["cdni, no hidden layers"]
    assert found == [None] + [1.0] * 9


def test_pairs_of_likeness_share_no_run():
    seen = [
        depth.Seen(net, seed, 1.0, 1.0, [], torch.full((2, 3, 3), float(seed)))
        for net in (*depth.NETS, depth.UNTRAINED)
        for seed in depth.SEEDS
    ]
    pairs = []
    monkey = depth.likeness
    try:
        depth.likeness = lambda a, b: pairs.append((a.net, a.seed, b.net, b.seed)) or [0.0]
        depth.likenesses(seen)
    finally:
        depth.likeness = monkey
    of_bp = [pair for pair in pairs if pair[2] == "bp"]
    assert len({seed for _, a, _, b in of_bp for seed in (a, b)}) == 2 * len(of_bp) == len(depth.SEEDS)
    assert not set(depth.SEEDS) & set(depth.PILOT)
