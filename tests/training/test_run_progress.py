"""How far runs came, and which of them may be ranked."""

from dataclasses import replace

from made_runs import made, stored

from gradlens.training.checkpoint import save_checkpoint
from gradlens.training.run_directory import load_run
from gradlens.training.run_progress import recorded_only_untrained, run_progress, split_finished, unfinished_text


def test_an_unfinished_run_came_as_far_as_its_checkpoint(tmp_path):
    run = made(finished=False, batch_size=50)  # 1000 images, 2 epochs
    assert str(run_progress(run)) == "30 of 40 updates"  # by its tables
    path = stored(run, tmp_path)
    save_checkpoint(path / "checkpoint.pt", {"model": {}, "method": {}, "step": 36})
    assert str(run_progress(load_run(path))) == "36 of 40 updates"
    (path / "checkpoint.pt").write_bytes(b"cut off")
    assert str(run_progress(load_run(path))) == "30 of 40 updates"
    assert str(run_progress(replace(run, info={}))) == "30 updates"
    assert run_progress(made()) == (True, 30, 30)
    assert str(run_progress(made())) == "finished"


def test_steps_end_a_run_before_its_epochs_do():
    whole = made(finished=False, batch_size=50)
    assert run_progress(replace(whole, config=whole.config.replace(steps=35))).total == 35
    # how many of the images have a label is not stored
    assert run_progress(made(finished=False, batch_size=50, labels=0.1)).total is None


def test_unfinished_runs_are_listed():
    runs = [made(), made("dgl", finished=False, batch_size=50), made("dni", finished=False, batch_size=50)]
    assert split_finished(runs) == (runs[:1], runs[1:])
    assert unfinished_text(runs) == "not finished, so not ranked: dgl-s0 (30 of 40 updates), dni-s0 (30 of 40 updates)"
    assert unfinished_text(runs[:1]) == ""


def test_a_run_shorter_than_record_every_recorded_the_untrained_network_only():
    assert recorded_only_untrained(made(steps=(0,)))
    assert not recorded_only_untrained(made())
    assert not recorded_only_untrained(made(steps=()))
    untrained = made(steps=(0,), epochs=0)  # a control: what it is at the start, it is at the end
    assert not recorded_only_untrained(replace(untrained, metrics=untrained.metrics[:1]))
    measured = made(steps=(0,))
    assert not recorded_only_untrained(replace(measured, measured=made(steps=(30,)).gradients))
