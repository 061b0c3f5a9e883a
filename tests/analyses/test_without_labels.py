"""The scripts on what is learned without labels: which runs a test compares, and what probes and accuracies are read on."""

import argparse
import json
from types import SimpleNamespace

import pytest
import torch

from analyses import finetuning, inpainting, representations, self_supervised, simclr2, simclr_ablations, spoken_digits
from analyses.training.probing import PIXELS, UNTRAINED, final_accuracy, probe_accuracies
from analyses.training.study import probe_accuracy, probed
from analyses.verdicts.decision import decide, measured
from gradlens.analysis.linear_probe import TRAINED
from gradlens.analysis.of_runs.options import FULL_PROBE
from gradlens.training.config import make_config
from gradlens.training.context import RunContext
from gradlens.training.runs.train_run import train_run

ABLATIONS = {"heads": simclr_ablations.heads, "augmentations": simclr_ablations.augmentations, "batches": simclr_ablations.batches}
ALL = (
    *(("simclr_ablations", tests) for tests in simclr_ablations.TESTS.values()), ("self_supervised", self_supervised.TESTS),
    ("finetuning", finetuning.TESTS), ("simclr2", simclr2.TESTS), ("inpainting", inpainting.TESTS),
    ("representations", representations.TESTS), ("spoken_digits", spoken_digits.TESTS),
)  # fmt: skip


def test_each_test_has_a_name_of_its_own_and_each_sentence_one_primary_test():
    whole = [test for _, some in ALL for test in some]
    tests = [leaf for test in whole for leaf in test.leaves]
    assert len({test.name for test in tests}) == len(tests)
    sentences = [test.primary_of for test in whole if test.primary_of]
    assert len(set(sentences)) == len(sentences)
    for test in tests:
        assert (test.at_least is None) != (test.within is None), test.name
        assert test.is_difference or len(test.contrast) == 1, test.name


@pytest.mark.parametrize("part", ABLATIONS)
def test_the_groups_that_are_compared_are_trained(part):
    trained = {*ABLATIONS[part]("digits", everything=True), UNTRAINED}
    groups = {group for test in simclr_ablations.TESTS[f"simclr_{part}"] for leaf in test.leaves for group in leaf.contrast}
    assert groups <= trained
    first = set(ABLATIONS[part]("digits"))
    assert groups <= first  # without the runs that the figure alone needs


def test_heads_differ_in_nothing_but_the_head():
    groups = simclr_ablations.heads("digits")
    assert len(groups) == 7
    assert [c.options["layers"] for c in (found[0] for found in groups.values())] == [0, 1, 1, 2, 2, 3, 3]
    assert {c.options["out"] for found in groups.values() for c in found if c.options["layers"]} == set(simclr_ablations.PROJECTIONS)
    others = {json.dumps({**c.model_dump(), "options": None}, default=str) for c in (found[1] for found in groups.values())}
    assert len(others) == 1


def test_a_larger_batch_has_as_many_updates_and_a_scaled_rate():
    groups = simclr_ablations.batches("digits")
    for method in ("simclr", "bp"):
        for updates in simclr_ablations.UPDATES:
            small, large = (groups[simclr_ablations.batch(method, size, updates)][0] for size in simclr_ablations.BATCHES)
            assert small.steps == large.steps == updates
            assert small.epochs * small.data.limit >= updates * small.batch_size
            assert large.epochs * large.data.limit >= updates * large.batch_size
            assert large.optimizer.lr == pytest.approx(small.optimizer.lr * (large.batch_size / small.batch_size) ** 0.5)
    (both, *_) = simclr_ablations.TESTS["simclr_batches"]
    assert [sorted(part.contrast.values()) for part in both.parts] == 2 * [[-1, -1, 1, 1]]


def test_local_learning_is_decided_by_all_local_rules_and_loco_by_loco():
    by_name = {test.name: test for test in self_supervised.TESTS}
    local = {
        name for name, rule in self_supervised.RULES.items() if rule[0] in ("loco", "simclr-local", "infomax", "context-encoder-local")
    }
    local.discard("infomax, one module")
    assert {group for group, weight in by_name["local-above-untrained"].contrast.items() if weight > 0} == local
    assert all("loco" in test.contrast for test in self_supervised.TESTS if test.primary_of.startswith("loco"))
    groups = {group for test in self_supervised.TESTS for group in test.contrast}
    assert groups <= {*self_supervised.RULES, *self_supervised.CONTROLS.values()}


def test_a_primary_test_follows_the_values():
    """Four local rules 3 points above their own untrained networks; what was not run is not decided."""
    seeds = (0.0, 0.4, 0.9, 0.1, -0.3, 0.2, -0.1, 0.7, 0.3, -0.6)
    block3 = {"untrained": [39 + s for s in seeds], self_supervised.CONTROLS["infomax"]: [35 + 2 * s for s in seeds]}
    for i, rule in enumerate(self_supervised.LOCAL):
        start = block3[self_supervised.LOCAL[rule]]
        block3[rule] = [v + 3 + (0.5 if (seed + i) % 2 else -0.5) for seed, v in enumerate(start)]
    results = {"values": {"block3": block3}}
    found = {d.test.name: d for d in decide(measured(self_supervised.TESTS, results), results)}
    assert found["local-above-untrained"].effect.mean == pytest.approx(3)
    assert found["local-above-untrained"].verdict == "supported"
    assert not {"bp-above-cpc", "loco-reaches-bp", "loco-block2-nearer"} & set(found)


def test_one_percent_of_the_labels_are_fifty_a_class():
    assert min(finetuning.FRACTIONS) * finetuning.IMAGES / 10 == 50
    assert min(finetuning.FRACTIONS) == simclr2.FEWEST
    assert "limit" not in {**finetuning.SHARED, **simclr2.SHARED}
    begun = {start: SimpleNamespace(path=f"runs/{start}") for start in finetuning.STARTS}
    wanted = {}
    for (start, share), budget in ((key, finetuning.FRACTIONS[key[1]]) for key in [("simclr", s) for s in finetuning.FRACTIONS]):
        wanted[start, share] = budget["epochs"] * -(-round(share * finetuning.IMAGES) // budget["batch_size"])
    assert all(1_400 <= updates <= 2_000 for updates in wanted.values())
    groups = {group for test in finetuning.TESTS for group in test.contrast}
    assert groups <= {*begun, finetuning.UNTRAINED, finetuning.LONGER}


def test_no_network_stands_in_two_pairs():
    runs = {rule: [SimpleNamespace(path=SimpleNamespace(name=f"{rule}{seed}")) for seed in range(6)] for rule in representations.METHODS}

    def pair(i, cka):
        rows = [
            {
                "run": runs[rule][i + 1].path.name,
                "network": TRAINED,
                "blocks": list(representations.BLOCKS),
                "with_blocks": list(representations.BLOCKS),
                "matrix": (torch.eye(4) * value).tolist(),
            }
            for rule, value in cka.items()
        ]
        return {"with": rows}

    pairs = [pair(i, {"bp": 0.9, "dgl": 0.8 - i / 100, "dni": 0.5}) for i in (0, 2, 4)]
    partners = {rule: [runs[rule][i + 1] for i in (0, 2, 4)] for rule in representations.METHODS}
    values = representations.alike(pairs, partners)
    assert values["CKA, block2"]["bp and dgl"] == pytest.approx([0.8, 0.78, 0.76])
    assert values[representations.MEAN]["bp and dni"] == pytest.approx([0.5] * 3)
    tests = [test for test in representations.TESTS if test.metric.startswith("CKA")]
    found = {d.test.name: d for d in decide(tests, {"values": values})}
    assert found["dni-unlike-blocks"].effect.mean == pytest.approx(0.4)


def test_inpainting_is_decided_seed_by_seed(monkeypatch):
    """Block1 and block2 are read alike, block3 as given, the untrained network at 30 %; errors below the mean patch's 0.05."""
    tops = {"centre": (45, 46, 47), "random": (39, 41, 43), "none": (40, 41, 42), "noise": (47, 48, 49)}
    runs = [SimpleNamespace(config=SimpleNamespace(options={"corrupt": task}), top=top) for task, values in tops.items() for top in values]

    def read(run, blocks, args, network=TRAINED):
        if network == PIXELS:
            return {PIXELS: 20.0}
        return {block: 30.0 if network == UNTRAINED else run.top if block == "block3" else 40.0 for block in blocks}

    monkeypatch.setattr(inpainting, "probe_accuracies", read)
    filled = [{"errors": {"network": {"l2": l2}, "mean_patch": {"l2": 0.05}}} for l2 in (0.04, 0.04, 0.041) * 4]
    values = inpainting.measured(runs, filled, argparse.Namespace())
    assert values[PIXELS] == {"raw pixels": [20.0] * 3}
    found = {d.test.name: (d.verdict, d.effect.mean) for d in decide(inpainting.TESTS, {"values": values})}
    assert found["inpainting-above-autoencoder"] == ("supported", pytest.approx(2.5))
    assert found["inpainting-centre-above-noise"][1] == pytest.approx(-2)
    assert found["inpainting-centre-above-untrained"] == ("supported", pytest.approx(16))
    assert found["inpainting-random-error"][1] == pytest.approx(100 * (0.01 + 0.01 + 0.009) / 3 / 0.05)
    assert {c.row for c in inpainting.cells_of(values)} == {*inpainting.TASKS.values(), "untrained"}


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """The same training, tested on 50 and on all images, and a run that answers."""
    out = tmp_path_factory.mktemp("runs")
    settings = {"data": "digits", "model": "mlp", "depth": 2, "width": 16, "epochs": 1, "batch_size": 64, "lr": 1e-2, "limit": 400}
    few, all_, answering = (
        train_run(make_config(method=method, options=options, **settings, **more), RunContext(out=out))
        for method, options, more in (
            ("simclr", {}, {"limit_test": 50}), ("simclr", {}, {}), ("bp", {}, {"limit_test": 50}),
        )
    )  # fmt: skip
    return few, all_, answering, argparse.Namespace(out=out, device="cpu")


def test_probes_read_all_test_images_whatever_each_epoch_was_tested_on(twins, monkeypatch):
    few, all_, _, args = twins
    options = FULL_PROBE.__class__(features=512, separability=0, grid=FULL_PROBE.grid)
    (known,) = probed([all_], args, options)
    for network in (TRAINED, UNTRAINED):
        found = probe_accuracies(few, ["block1", "block2"], args, network)
        assert found == {block: pytest.approx(probe_accuracy(known, block, network)) for block in ("block1", "block2")}
    assert probe_accuracies(few, [], args, PIXELS)[PIXELS] == pytest.approx(probe_accuracy(known, "pixels", "pixels"))
    kept = json.loads((few.path / "probe_all_test.json").read_text())
    kept[TRAINED]["block1"] = 7.0
    (few.path / "probe_all_test.json").write_text(json.dumps(kept))
    assert probe_accuracies(few, ["block1"], args)["block1"] == 7  # what is kept is not measured again ...
    monkeypatch.setattr("analyses.training.probing._measured", lambda *_: {"block1": 8.0})
    for part in ("weights", "options", "data"):
        (few.path / "probe_all_test.json").write_text(json.dumps({**kept, "key": {**kept["key"], part: "others"}}))
        assert probe_accuracies(few, ["block1"], args)["block1"] == 8  # ... but for other weights, options or data
    old = {name: value for name, value in kept.items() if name != "key"}
    for weights, accuracy in (("others", 8), (kept["key"]["weights"], 7)):  # files without key record the weights alone
        (few.path / "probe_all_test.json").write_text(json.dumps({**old, "weights": weights}))
        assert probe_accuracies(few, ["block1"], args)["block1"] == accuracy


def test_final_accuracy_is_that_of_all_test_images(twins):
    *_, answering, args = twins
    found = final_accuracy(answering, args)
    twin = train_run(answering.config.replace(limit_test=None), RunContext(out=args.out))
    assert found == pytest.approx(100 * twin.metrics[-1].accuracy)
    assert found == final_accuracy(answering, args)
