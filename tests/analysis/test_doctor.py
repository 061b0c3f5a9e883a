"""Each way of failing is found in a run that was broken in just that way, and none in healthy ones."""

import json
import math

import pytest
import shelf
import torch
from torch import nn

from gradlens.analysis.doctor import CHECKS, RESULT, diagnosis_json, diagnosis_line, examine
from gradlens.analysis.doctor_evidence import LAST_STEPS, RunView, graded
from gradlens.analysis.doctor_outcome import SPIKE_RECORDS, effective_rank_of_rows, jumps
from gradlens.gradients.losses import LOSSES
from gradlens.gradients.rows import Measurement
from gradlens.methods import METHODS
from gradlens.methods.local.windows import Local, LocalLosses
from gradlens.methods.synthetic_gradients.dni import DNI
from gradlens.reporting.console import diagnosis_table
from gradlens.runtime.csv_tables import csv_line
from gradlens.training.batches import Batches
from gradlens.training.config import make_config
from gradlens.training.context import RunContext
from gradlens.training.run_directory import Metric, load_run
from gradlens.training.runs.train_run import train_run

BASE = {
    "model": "mlp", "width": 32, "epochs": 5, "limit": 1000, "batch_size": 50, "record_every": 6, "diagnose_every": 5, "lr": 3e-3,
}  # fmt: skip
CNN = {"model": "basic-cnn", "width": 8, "epochs": 4, "lr": 1e-3}
SHORT = {"limit": 300, "limit_test": 200, "epochs": 3, "record_every": 2, "diagnose_every": 5, "lr": 1e-2}


def trained(folder, method, **settings):
    return train_run(make_config(**{**BASE, "method": method, **settings}), RunContext(out=folder))


HEALTHY = ("bp", "dgl", "cdni", "fa", "dfa", "dgl-async")  # one of each kind of rule
OVERFITTED = {"width": 64, "limit": 100, "label_noise": 0.5, "batch_size": 20, "epochs": 20, "record_every": 0, "lr": 1e-2}


def healthy(method):
    """A run that learns digits."""
    return shelf.trained(make_config(**{**BASE, "method": method, **(CNN if method == "cdni" else {})}))


@pytest.fixture
def copied(tmp_path):
    """A healthy run's directory, to be damaged."""
    return lambda method: shelf.copied(healthy(method), tmp_path)


def seen(diagnosis, check, severity="wrong"):
    """Where a check found something of that severity."""
    return [f.where for f in diagnosis.findings if (f.check, f.severity) == (check, severity)]


def rewrite(run, name, change):
    """Change a table's rows on disk and read the run again."""
    rows = [change(row) for row in getattr(run, name)]
    (run.path / f"{name}.csv").write_text("".join(csv_line(r) for r in [type(rows[0])._fields, *rows]))
    return load_run(run.path)


# ---------------------------------------------------------------------------------------------------------- healthy


@pytest.mark.parametrize("method", HEALTHY)
def test_nothing_is_wrong_with_a_healthy_run(method):
    run = healthy(method)
    found = examine(run)
    assert not found.wrong, (method, found.findings)
    assert not found.findings, (method, found.findings)
    assert not found.unmade, method
    assert sorted([*found.made, *found.not_applicable]) == sorted(check.name for check in CHECKS)
    assert diagnosis_line(found) == f"nothing wrong: {len(found.made)} checks"


def test_what_does_not_concern_a_rule_is_left_out():
    own = {"dead local head", "lagging synthesiser", "synthesiser out of scale", "feedback drift", "stale replay"}
    concerned = {method: own - set(examine(run).not_applicable) for method, run in ((m, healthy(m)) for m in HEALTHY)}
    assert concerned == {
        "bp": set(),
        "dgl": {"dead local head"},
        "cdni": {"lagging synthesiser", "synthesiser out of scale"},
        "fa": {"feedback drift"},
        "dfa": {"feedback drift"},
        "dgl-async": {"dead local head", "stale replay"},
    }


def test_blocks_that_a_rule_leaves_alone_are_not_silent(tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "top-alone", type("TopAlone", (METHODS["shallow"],), {}))  # no name is known
    for method in ("shallow", "greedy", "top-alone"):
        run = trained(tmp_path, method, **SHORT)
        assert not seen(examine(run), "silent layer"), method
        assert any(row.kind == "weight" and row.quantity == "norm" and row.value == 0 for row in run.gradients), method


# -------------------------------------------------------------------------------------------- broken on purpose


def test_a_dead_local_head(tmp_path, monkeypatch):
    alive = LocalLosses.local_loss

    def frozen(self, k, p):
        """The head of block 0 answers zero to everything: its loss is that of guessing and teaches nothing."""
        if k:
            return alive(self, k, p)
        logits = 0 * self.heads["0"](p.z)
        return Local(self.loss(logits, p.y), logits)

    monkeypatch.setattr(LocalLosses, "local_loss", frozen)
    found = examine(trained(tmp_path, "dgl", **SHORT))
    assert seen(found, "dead local head") == ["block1"]
    (head,) = [f for f in found.findings if f.check == "dead local head"]
    assert head.value == pytest.approx(math.log(10), abs=1e-6)
    assert seen(found, "silent layer") == ["block1.linear"]


def test_a_local_loss_of_several_terms_that_does_not_fall(tmp_path):
    run = trained(tmp_path, "predsim", **SHORT)
    assert not seen(examine(run), "dead local head")
    rising = rewrite(run, "gradients", lambda r: r._replace(value=0.3 + r.step / 1e3) if (r.layer, r.quantity) == ("block2", "loss") else r)
    assert seen(examine(rising), "dead local head") == ["block2"]


def test_a_synthesiser_that_lags_and_is_out_of_scale(tmp_path, monkeypatch):
    begin = DNI.__init__

    def huge(self, net, options):
        begin(self, net, options)
        for synthesiser in self.synthesisers:
            nn.init.constant_(synthesiser.rest.last.bias, 100.0)

    monkeypatch.setattr(DNI, "__init__", huge)
    found = examine(trained(tmp_path, "dni", **CNN | SHORT | {"lr": 1e-5}))
    assert seen(found, "lagging synthesiser") == ["block1", "block2", "block3"]
    assert seen(found, "synthesiser out of scale") == ["block1", "block2", "block3"]
    assert all(f.value > 10 for f in found.findings if f.check == "synthesiser out of scale")


def test_a_synthesiser_that_says_too_little(copied):
    run = rewrite(copied("cdni"), "gradients", lambda r: r._replace(value=r.value / 1e3) if r.quantity == "norm_ratio" else r)
    assert seen(examine(run), "synthesiser out of scale") == ["block1", "block2", "block3"]
    assert all(f.limit == 0.1 for f in examine(run).findings)


def test_weights_that_outgrow_their_feedback(tmp_path):
    found = examine(trained(tmp_path, "fa", **SHORT | {"lr": 0.3, "epochs": 5}))
    assert {"block2.linear", "block3.linear"} <= set(seen(found, "feedback drift"))


def test_feedback_that_comes_nearer_has_not_drifted(copied):
    def ratios(first, last):
        def change(row):
            if row.kind != "feedback_jacobian" or row.quantity != "norm_ratio":
                return row
            return row._replace(value=first if row.step == 0 else last)

        return change

    run = copied("dfa")
    for first, last, severity in ((20, 2, None), (2, 20, "wrong"), (1, 1 / 5, "watch"), (20, 1 / 20, None), (4, 5, None)):
        found = examine(rewrite(run, "gradients", ratios(first, last)))
        assert [f.severity for f in found.findings] == [severity] * (3 if severity else 0), (first, last)


def test_blocks_that_vanish_and_collapse(tmp_path):
    found = examine(trained(tmp_path, "bp", depth=8, activation="sigmoid", **SHORT | {"lr": 1e-3, "batch_size": 15}))
    assert seen(found, "vanishing block") == ["block1"]
    assert seen(found, "at chance") == ["test"]
    collapsed = seen(found, "collapsed features")
    assert collapsed == [f"block{k}" for k in range(9 - len(collapsed), 9)]
    assert len(collapsed) > 1


def test_a_block_that_explodes(copied):
    def grow(row):
        return row._replace(value=row.value * math.exp(row.step / 6)) if (row.layer, row.quantity) == ("block2", "norm") else row

    found = examine(rewrite(copied("bp"), "gradients", grow))
    assert seen(found, "exploding block") == ["block2"]


def test_a_network_of_dead_units(tmp_path):
    config = make_config(**BASE | SHORT | {"method": "bp", "lr": 0.0, "batch_size": 15})
    start = trained(tmp_path, "bp", epochs=0)
    state = start.checkpoint()
    state["model"]["block2.linear.bias"].fill_(-1e3)  # a relu that never opens again
    torch.save(state, start.path / "checkpoint.pt")
    found = examine(train_run(config.replace(init_from=str(start.path)), RunContext(out=tmp_path)))
    assert seen(found, "silent layer") == ["block1.linear", "block2.linear", "block3.linear"]
    assert seen(found, "collapsed features") == ["block2", "block3"]
    assert seen(found, "at chance") == ["test"]


def test_replay_of_what_is_long_past(tmp_path):
    options = {"slowed": 1, "slowdown": 20, "buffer": 2, "reuse": 1000}
    found = examine(trained(tmp_path, "dgl-async", record_every=2, diagnose_every=0, options=options))
    assert seen(found, "stale replay") == ["block2"]
    assert seen(found, "stale replay", "watch") == ["block1"]  # which has no turn in most rounds


def test_a_spike_and_what_moved(tmp_path, monkeypatch):
    plain = Batches.batch

    def poisoned(self, step):
        x, y = plain(self, step)
        if step == 32:
            y = (y + 1) % 10  # labels that belong to no image of this batch
            self.task.make_known(y)
        return x, y

    monkeypatch.setattr(Batches, "batch", poisoned)
    run = trained(tmp_path, "bp", limit=640, epochs=5, record_every=2, diagnose_every=0, lr=1e-2)
    (spike,) = [f for f in examine(run).findings if f.check == "loss spike"]
    assert (spike.severity, spike.where, spike.step) == ("watch", "top", 32)
    jumped = {r.layer: r.value for r in run.gradients if (r.kind, r.quantity, r.step) == ("weight", "norm", 32)}
    named = spike.evidence.split("largest change: ")[1].split(",")[0]
    usual = {
        layer: torch.tensor([r.value for r in run.gradients if (r.layer, r.kind, r.quantity) == (layer, "weight", "norm") and r.step < 32])[
            -7:
        ]
        for layer in jumped
        if ".norm" not in layer
    }
    assert named == max(usual, key=lambda layer: jumped[layer] / float(usual[layer].median()))


def test_epochs_that_spike_and_a_loss_that_never_comes_back(copied):
    run = copied("bp")
    up = rewrite(run, "metrics", lambda m: m._replace(loss=m.loss + 2.5) if (m.split, m.epoch) == ("train", 3) else m)
    (spike,) = examine(up).findings
    assert (spike.check, spike.severity, spike.where, spike.step) == ("loss spike", "watch", "train", 60)
    lost = rewrite(up, "metrics", lambda m: m._replace(loss=m.loss + 2.5) if (m.split, m.epoch) == ("train", 5) else m)
    assert seen(examine(lost), "loss spike") == ["train"]


def test_overfitting():
    run = shelf.trained(make_config(**{**BASE, **OVERFITTED}))
    found = examine(run)
    assert seen(found, "overfitting") == ["test"]
    assert "no gradients were recorded" in found.unmade["vanishing block"]
    shown = run.metrics[-1]
    assert f"{shown.loss:.3g}" in found.findings[0].evidence


def test_random_labels_are_meant_to_be_fitted(tmp_path):
    run = trained(tmp_path, "bp", **OVERFITTED | {"label_noise": 1.0})
    found = examine(run)
    assert not found.wrong
    assert {"overfitting", "at chance"} <= set(found.not_applicable)


def test_an_untrained_network_is_a_control(tmp_path):
    found = examine(trained(tmp_path, "bp", epochs=0))
    assert not found.findings


def test_unfinished_and_not_finite(copied):
    run = copied("bp")
    (run.path / "summary.json").unlink()
    found = examine(load_run(run.path))
    assert seen(found, "unfinished", "watch") == ["run"]
    assert "100 of 100 updates" in found.findings[0].evidence
    assert not found.wrong
    nan = rewrite(
        run, "gradients", lambda r: r._replace(value=math.inf) if (r.layer, r.quantity, r.step) == ("block3.linear", "norm", 42) else r
    )
    (finding,) = [f for f in examine(nan).findings if f.check == "not finite"]
    assert (finding.severity, finding.where, finding.step) == ("wrong", "block3.linear", 42)


def test_activations_that_are_no_numbers(copied):
    run = copied("bp")
    state = run.checkpoint()
    state["model"]["block2.linear.weight"].fill_(math.nan)
    torch.save(state, run.path / "checkpoint.pt")
    found = examine(load_run(run.path))
    assert seen(found, "collapsed features") == ["run"]
    assert "block2" in next(f for f in found.findings if f.check == "collapsed features").evidence


# ----------------------------------------------------------------------------------------------- what cannot be made


def test_a_check_without_what_it_needs_says_so(copied):
    run = copied("fa")
    (run.path / "checkpoint.pt").unlink()
    assert "checkpoint" in examine(load_run(run.path)).unmade["collapsed features"]
    without = [r for r in run.gradients if not r.kind.startswith("feedback")]
    (run.path / "gradients.csv").write_text("".join(csv_line(r) for r in [Measurement._fields, *without]))
    assert "--diagnose-every" in examine(load_run(run.path)).unmade["feedback drift"]
    (run.path / "gradients.csv").write_text("")
    found = examine(load_run(run.path))
    assert not found.findings
    assert {"feedback drift", "vanishing block", "silent layer", "loss spike"} <= set(found.unmade)
    assert f"{len(found.unmade)} could not be made (" in diagnosis_line(found)
    (run.path / "metrics.csv").write_text("".join(csv_line(r) for r in [Metric._fields, *run.metrics[:1]]))
    assert examine(load_run(run.path)).unmade["at chance"] == "no epoch has been evaluated yet"


def test_a_run_with_one_record_of_the_untrained_network_is_too_short_to_judge(copied):
    run = copied("dgl")
    first = [r for r in run.gradients if r.step == 0]
    (run.path / "gradients.csv").write_text("".join(csv_line(r) for r in [Measurement._fields, *first]))
    early = [m._replace(step=m.epoch, accuracy=0.1) for m in run.metrics]
    (run.path / "metrics.csv").write_text("".join(csv_line(r) for r in [Metric._fields, *early]))
    found = examine(load_run(run.path))
    assert not found.findings
    gone = {name: why for name, why in found.unmade.items() if why.startswith("too short to evaluate: 1 record, expected 3 ")}
    assert set(gone) == {"dead local head", "silent layer", "vanishing block", "exploding block"}
    assert found.unmade["at chance"] == "too short to evaluate: 5 updates, expected 50"
    assert found.unmade["loss spike"].startswith("too short to evaluate: 1 record, expected 8 ")
    assert "dead local head, silent layer, vanishing block, exploding block: too short to evaluate: 1 record" in diagnosis_line(found)


def test_feedback_that_was_looked_at_once_is_too_short_to_judge(copied):
    run = copied("fa")
    once = [r for r in run.gradients if not r.kind.startswith("feedback") or r.step == 0]
    (run.path / "gradients.csv").write_text("".join(csv_line(r) for r in [Measurement._fields, *once]))
    assert examine(load_run(run.path)).unmade["feedback drift"].startswith("too short to evaluate: 1 record, expected 2 ")


# ------------------------------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_of_guessing_is_the_least_that_a_constant_answer_has(loss):
    run = healthy("bp")
    looked = RunView(load_run(run.path), RunContext())
    object.__setattr__(looked.run, "config", run.config.replace(loss=loss))
    y = torch.arange(10)
    z = torch.zeros(10, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([z], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = LOSSES[loss](z.expand(10, 10), y)
        value.backward()
        return value

    optimizer.step(closure)
    assert looked.guessing == pytest.approx(float(closure().detach()), abs=1e-9)


def test_the_end_is_the_last_epoch_or_three_steps_at_least():
    looked = RunView(healthy("bp"), RunContext())  # 20 updates an epoch, every sixth recorded
    series = looked.series["top", "rule", "loss"]
    assert [s for s, _ in looked.late(series)] == [84, 90, 96]
    assert [s for s, _ in looked.late(series[:11])] == [48, 54, 60]  # 60 is the fourth epoch's first
    assert [s for s, _ in looked.late(series[:10])] == [42, 48, 54]
    assert len(looked.late(series[:2])) == 2 < LAST_STEPS


def test_grades():
    assert [graded(v, 3, 10) for v in (2.9, 3, 10, math.inf, math.nan)] == [None, ("watch", 3), ("wrong", 10), ("wrong", 10), ("wrong", 10)]
    assert [graded(v, 3, 1.5) for v in (3.1, 2, 1, 0)] == [None, ("watch", 3), ("wrong", 1.5), ("wrong", 1.5)]


def test_rank_counts_directions():
    g = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(30, 30, generator=g)).Q
    for r in (1, 2, 5):
        scores = torch.linalg.qr(torch.randn(50, r, generator=g)).Q
        scores = torch.linalg.qr(scores - scores.mean(0)).Q
        assert effective_rank_of_rows(scores @ rotation[:r] + 7) == pytest.approx(r, rel=1e-3)
    assert effective_rank_of_rows(torch.full((9, 4), 0.3)) == 0.0
    assert effective_rank_of_rows(torch.full((9, 4), 1.0) + 1e-7 * torch.randn(9, 4, generator=g)) == 0.0


def test_jumps_stand_out_of_their_own_noise():
    g = torch.Generator().manual_seed(0)
    noise = (0.05 * torch.randn(200, generator=g)).tolist()
    falling = [(i, 2 * math.exp(-i / 60) + n) for i, n in enumerate(noise)]
    assert not list(jumps(falling, 0.23))
    spiked = [(i, v + (1.5 if i == 120 else 1.0 if i == 121 else 0)) for i, v in falling]
    assert [i for i, _, _ in jumps(spiked, 0.23)] == [120]  # one spike, at its peak
    assert not list(jumps([(i, 1e-3 * v) for i, v in spiked], 0.23))  # near zero nothing matters
    wild = [(i, 10 * n) for i, n in enumerate(noise)]  # noise of 0.5 is no spike, however large
    assert not list(jumps(wild, 0.23))


def test_eight_losses_of_noise_seldom_have_a_spike_and_a_real_one_is_mostly_found():
    g = torch.Generator().manual_seed(0)
    alarms = found = 0
    for _ in range(500):
        noise = torch.randn(SPIKE_RECORDS, generator=g).tolist()
        alarms += bool(list(jumps(list(enumerate(noise)), 0.0)))
        spiked = [(i, v + (15 if i == 5 else 0)) for i, v in enumerate(noise)]
        found += [i for i, _, _ in jumps(spiked, 0.0)] == [5]
    assert alarms <= 15  # 3 %, and the simulation behind the threshold says 1.6
    assert found >= 400


def test_every_check_has_a_name_a_threshold_and_one_sentence_of_advice():
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    for check in CHECKS:
        assert check.threshold
        for sentence in (check.advice, check.why):
            assert sentence.endswith(".")
            assert ". " not in sentence
        assert check.look.__doc__


# ------------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def gradlens(program, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return program


def test_the_command_is_for_scripts(copied, gradlens):
    good, bad = copied("bp"), copied("dgl")
    files = {p: p.read_bytes() for run in (good, bad) for p in run.path.iterdir() if p.is_file()}
    status, out, _ = gradlens("doctor", good.path, "--quiet")
    assert status == 0
    assert "nothing wrong: 9 checks" in out
    rewrite(bad, "gradients", lambda r: r._replace(value=2.31) if (r.layer, r.kind, r.quantity) == ("block1", "rule", "loss") else r)
    changed = bad.path / "gradients.csv"
    status, out, _ = gradlens("doctor", good.path, bad.path, good.path, "--quiet")
    assert status == 1
    assert "WRONG" in out
    assert "dead local head" in out
    assert all(p.read_bytes() == content for p, content in files.items() if p != changed)
    stored = json.loads((bad.path / f"{RESULT}.json").read_text())
    assert stored["wrong"] is True
    assert stored["findings"][0]["where"] == "block1"
    assert "versions" in stored
    status, out, _ = gradlens("doctor", good.path, bad.path, "--quiet", "--json")
    assert status == 1
    assert [(r["run"], r["wrong"]) for r in json.loads(out)] == [(str(good.path), False), (str(bad.path), True)]


def test_things_to_watch_do_not_fail_a_script(copied, gradlens):
    run = copied("bp")
    (run.path / "summary.json").unlink()
    status, out, _ = gradlens("doctor", run.path, "--quiet")
    assert (status, "1 to watch" in out) == (0, True)


def test_bad_input_is_one_sentence(tmp_path, copied, gradlens):
    run, empty = copied("bp"), tmp_path / "empty"
    empty.mkdir()
    for arguments, word in ((["nowhere"], "does not exist"), ([], "RUN_OR_COMPARISON"), ([run.path, empty], "not a run directory")):
        status, out, err = gradlens("doctor", *arguments)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert word in err
    assert not (run.path / f"{RESULT}.json").exists()


def test_a_table_holds_each_check_once(copied):
    run = copied("fa")
    found = examine(rewrite(run, "gradients", lambda r: r._replace(value=0.0) if (r.kind, r.quantity) == ("weight", "norm") else r))
    assert len(seen(found, "silent layer")) == 4
    table = diagnosis_table("run", found)
    assert len(table.rows) == len({(f.check, f.severity) for f in found.findings})
    assert [cell.text for cell in table.rows[0][:2]] == ["silent layer", "WRONG"]
    assert table.rows[0][2].text.index("why: ") < table.rows[0][2].text.index("expected: ")
    assert json.loads(json.dumps(diagnosis_json(found)))["wrong"] is True


def test_a_test_loss_that_was_once_none_hides_no_overfitting(tmp_path):
    run = shelf.copied(shelf.trained(make_config(**{**BASE, **OVERFITTED})), tmp_path)
    spoilt = rewrite(run, "metrics", lambda m: m._replace(loss=math.nan) if (m.split, m.epoch) == ("test", 1) else m)
    assert seen(examine(spoilt), "overfitting") == ["test"]
