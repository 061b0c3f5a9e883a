"""What figures and pages may replace."""

import pytest
from made_runs import made

from gradlens.reporting.figure_folder import Selection, default_folder, mark, must_be_replaceable, must_be_replaceable_page, note_runs
from gradlens.runtime.errors import InputError


def test_a_folder_takes_figures_of_the_same_runs_also_when_both_were_moved(tmp_path):
    runs = [tmp_path / "c" / "runs" / name for name in ("a", "b")]
    folder = tmp_path / "c" / "figures"
    must_be_replaceable(folder, runs, False)
    note_runs(folder, runs)
    must_be_replaceable(folder, runs[::-1], False)
    with pytest.raises(InputError, match=r"holds figures of more runs than these \(\.\./runs/a, \.\./runs/b\): --out names another folder"):
        must_be_replaceable(folder, runs[:1], False)
    with pytest.raises(InputError, match=r"holds figures of other runs \(\.\./runs/a, "):
        must_be_replaceable(folder, [*runs, tmp_path / "d"], False)
    must_be_replaceable(folder, runs[:1], True)
    (tmp_path / "c").rename(tmp_path / "d")
    must_be_replaceable(tmp_path / "d" / "figures", [tmp_path / "d" / "runs" / name for name in ("a", "b")], False)


def test_a_folder_takes_figures_of_the_same_selection_alone(tmp_path):
    runs, some = [tmp_path / "a"], Selection(("top.out", "block1*"))
    note_runs(tmp_path / "part", runs, some)
    must_be_replaceable(tmp_path / "part", runs, False, selection=Selection(("block1*", "top.out")))
    with pytest.raises(InputError, match=r"another selection of these runs \(layers block1\*, top.out\)"):
        must_be_replaceable(tmp_path / "part", runs, False)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "figures.json").write_text('{"runs": ["../a"]}')
    must_be_replaceable(tmp_path / "old", runs, False)
    with pytest.raises(InputError, match=r"another selection of these runs \(all methods and layers\)"):
        must_be_replaceable(tmp_path / "old", runs, False, selection=Selection(width=3.3))
    names = [selection.beside(tmp_path).name for selection in (some, Selection(("block1", "top.out")), Selection(("block" * 20,)))]
    assert len(set(names)) == 3
    assert all(len(name) < len(tmp_path.name) + 42 and "*" not in name for name in names)


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    (tmp_path / ".hidden").touch()
    must_be_replaceable(tmp_path, [tmp_path / "a"], False)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=r"holds what gradlens did not draw \(notes.txt\): --figures names"):
        must_be_replaceable(tmp_path, [tmp_path / "a"], False, "--figures")


def test_a_page_is_replaced_by_one_of_the_same_runs(tmp_path):
    page, runs = tmp_path / "r.html", [tmp_path / "a", tmp_path / "b"]
    must_be_replaceable_page(page, runs, False)
    page.write_text("<html></html>\n" + mark(runs, page))
    must_be_replaceable_page(page, runs, False)
    with pytest.raises(InputError, match="is a page of other runs"):
        must_be_replaceable_page(page, runs[1:], False)
    page.write_text("mine")
    with pytest.raises(InputError, match="exists: -o names another file"):
        must_be_replaceable_page(page, runs, False)
    must_be_replaceable_page(page, runs, True)


def test_figures_of_other_runs_go_to_another_folder_by_default():
    one, other, both = (default_folder([run.config for run in runs]) for runs in ([made()], [made("dgl")], [made(), made("dgl")]))
    assert one.name == made().config.run_name()
    assert both.name.startswith("bp-dgl-digits-")
    assert len({one, other, both, default_folder([made().config, made("dgl", seed=1).config])}) == 4
