"""The page: what it says is what the runs hold, every value is escaped, nothing is fetched, and it stays small."""

import base64
import doctest
import hashlib
import importlib.resources
import io
import json
import math
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from made_runs import LAYERS, made, many, stored
from PIL import Image

from gradlens.methods import METHODS
from gradlens.reporting.aggregate import LayerPoint
from gradlens.reporting.html import charts, parts
from gradlens.reporting.html import page as report
from gradlens.reporting.html.charts import BINS, DARK, cosine_bin, cosine_colours, in_the_dark, looks
from gradlens.reporting.html.page import make_report_context, page, write_page
from gradlens.reporting.html.parts import ReportSection
from gradlens.reporting.html.stored import stored as stored_results
from gradlens.reporting.style import contrast, styles
from gradlens.runtime.errors import InputError
from gradlens.training.run_directory import load_run

NASTY = "<script>window.hacked=1</script>"


class Parsed(HTMLParser):
    """The page's elements, its scripts, and its text by section."""

    VOID = ("meta", "img", "input", "br", "link")

    def __init__(self, html):
        super().__init__()
        self.elements, self.scripts, self.text, self.open = [], [], {}, []
        self.section = ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.elements.append((tag, found))
        if tag == "section":
            self.section = found["id"]
        if tag == "script":
            self.scripts.append([found, ""])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            assert self.open.pop() == tag, f"{tag} closes out of turn"

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1][1] += data
        elif self.open and self.open[-1] != "style":
            self.text[self.section] = self.text.get(self.section, "") + " " + data

    def words(self, section):
        return re.sub(r"\s+", " ", self.text[section]).strip()

    @property
    def data(self):
        (content,) = [text for found, text in self.scripts if found.get("id") == "data"]
        return json.loads(content)


@pytest.fixture(scope="module")
def runs():
    return [
        *[made(seed=i, accuracy=0.6 + 0.01 * i, nulls=(0.1,) * 5) for i in range(2)],
        *[made("dgl", seed=i, accuracy=0.5, cosines=(0.2 + 0.1 * i, 0.6, 1, 1, 1), nulls=(0.1,) * 5) for i in range(2)],
        made("greedy", cosines=(math.nan, -0.5, 1, 1, 1)),
    ]


@pytest.fixture(scope="module")
def html(runs):
    return page(runs)


@pytest.fixture(scope="module")
def parsed(html):
    return Parsed(html)


@pytest.mark.parametrize("module", [charts, report, parts])
def test_doctests(module):
    assert doctest.testmod(module).failed == 0


# ----------------------------------------------------------------------------------------------------------- what it says


def test_every_section_that_holds_something_is_there_and_closed(parsed):
    wanted = ["verdict", "curves", "cosine", "training", "schematics", "cost", "differences", "config", "more"]
    assert [found["id"] for tag, found in parsed.elements if tag == "section"] == wanted
    assert parsed.open == []
    targets = {found.get("href") for tag, found in parsed.elements if tag == "a"}
    assert {f"#{name}" for name in wanted} <= targets


def test_verdict_lines(parsed):
    words = parsed.words("verdict")
    assert "The gradient of dgl has cosine 0.62 ± 0.21 with the true one below the output block" in words
    assert "dgl Cosine 0.62 ± 0.21; worst at block1.conv (0.25" in words
    assert "50.0 % test accuracy, 10.5 points below bp" in words
    assert "One seed only, so without intervals: greedy." in words
    assert "Which rule should I use? For accuracy alone, backprop" in words


def test_what_nothing_measured_is_one_sentence_with_the_commands(parsed):
    runs = "runs/*"
    assert parsed.words("more").partition(" Made by")[0] == (
        f"What could be added Nothing has measured these yet: linear separability ( gradlens probe {runs} );"
        f" memorization of random labels ( gradlens memorize METHOD… ); first-layer filters ( gradlens filters {runs} );"
        f" representations ( gradlens representations {runs} ); online probe and its regret ( gradlens train … --online-probe );"
        f" what the doctor found ( gradlens doctor {runs} )."
    )


def test_charts_hold_the_numbers_of_the_tables(parsed, runs):
    lines = parsed.data["cosine"]["layers"]["block1.conv"]
    dgl = next(line for line in lines if line["label"] == "dgl")
    assert dgl["x"] == [0, 10, 20]
    assert dgl["y"] == [0.25, 0.25, 0.25]
    assert dgl["low"] == pytest.approx([0.25 - 12.7062 * 0.05] * 3, abs=1e-3)  # t(1) · s/√2
    greedy = next(line for line in lines if line["label"] == "greedy")
    assert greedy["y"] == [None, None, None]
    accuracy = next(chart for chart in parsed.data["charts"].values() if chart["title"] == "test accuracy")
    assert next(line for line in accuracy["lines"] if line["label"] == "bp")["y"] == [0.1, 0.505, 0.605]
    band = next(b for b in parsed.data["charts"]["training-0"]["bands"] if b["name"] == "chance")
    assert (band["low"], band["high"]) == ([0.1, 0.1, 0.1], [0.1, 0.1, 0.1])


def test_layers_of_the_true_gradient_throughout_are_named_and_not_drawn(parsed, html):
    drawn = re.findall(r'data-layer="([^"]*)"', html)
    assert drawn == ["block1.conv", "block2.conv"]  # the others are 1.00 for every method at every step
    assert "Without a map: block3.conv, top.hidden and top.out" in parsed.words("cosine")
    assert [c["layer"] for c in parsed.data["charts"].values() if c["kind"] == "cosine"] == drawn
    assert len(re.findall(r'data-layer="', page([made()]))) == len(LAYERS)  # else there would be nothing


def test_a_cosine_that_is_missing_is_striped_and_not_white(html):
    row = re.search(r'id="slice".*?greedy</th>(.*?)</tr>', html, re.S)[1]
    assert re.match(r'<td class="none">–</td><td class="c5">', row)


def test_the_baseline_has_no_worst_layer(html):
    row = re.search(r'id="summary".*?<tr><th scope="row"[^>]*>(?:(?!</tr>).)*?bp</th>(.*?)</tr>', html, re.S)[1]
    assert [text for _, text in re.findall(r"<td( [^>]*)?>([^<]*)</td>", row)][:2] == ["1.00 ± 0.00", "–"]


def test_sortable_cells_carry_the_number_they_show(html):
    row = re.search(r'id="summary".*?(<tr><th scope="row"[^>]*>(?:(?!</tr>).)*?dgl</th>.*?</tr>)', html, re.S)[1]
    cells = re.findall(r'<td data-key="([^"]*)">([^<]*)</td>', row)
    assert cells[0][1] == "0.62 ± 0.21"
    assert float(cells[0][0]) == pytest.approx(0.6167, abs=1e-4)


def test_settings_versions_and_differences(parsed):
    words = parsed.words("config")
    for part in ("runs/greedy-s0", "gradlens train greedy", "2.14.1", "dgl.head", "train images"):
        assert part in words
    assert "stage epochs" in parsed.words("differences")
    assert "batch size" not in parsed.words("differences")


def test_unlike_runs_are_stated_first_and_shown_all_the_same():
    words = Parsed(page([made(), made("dgl", data="mnist", fingerprint="beef")])).words("verdict")
    assert words.startswith("Verdict These runs have different data or networks")
    assert "data digits (bp) or mnist (dgl)" in words


def test_one_bare_unfinished_run_gives_a_page():
    run = made("dgl", steps=(), finished=False)
    run.metrics.clear()
    run.timing.clear()
    found = Parsed(page([run]))
    both = "cosine by method, layer and step and cosine over training, with chance and noise ( gradlens train … --record-every 10 )"
    assert both in found.words("more")
    assert "No epoch has been evaluated yet" in found.words("curves")
    assert "nothing differs but the seed" in found.words("differences")


def test_other_layers_in_other_networks_are_shown_beside_each_other():
    deep = made("dgl", model="mlp")
    deep.gradients[:] = [row._replace(layer=row.layer.replace("conv", "linear")) for row in deep.gradients]
    found = Parsed(page([made(), deep]))
    assert set(found.data["cosine"]["layers"]) == {*LAYERS, "block1.linear", "block2.linear", "block3.linear"}


def test_runs_on_ordinary_labels_are_not_sent_to_memorize(parsed):
    noisy = Parsed(page([made(label_noise=1.0, evaluate_train=True)]))
    assert "memorization of random labels ( gradlens memorize runs/bp-s0 )" in noisy.words("more")


# ------------------------------------------------------------------------------------------------------------- safe, whole


def test_names_and_values_are_escaped():
    run = made("dgl", path=f"runs/{NASTY}", data=f'x"{NASTY}<!--', cosines=(0.5,) * 5)
    run.info["command"] = f"gradlens train --data {NASTY}&amp;"
    found = Parsed(page([made(), run]))
    assert len(found.scripts) == 3
    assert NASTY in found.words("config")
    assert f"gradlens train --data {NASTY}&amp;" in found.words("config")
    assert found.data["looks"][1]["label"] == "dgl"


def test_json_in_the_page_holds_no_tag_and_reads_back():
    content = {"a": f"{NASTY} <!-- \u2028 & ' \"", "b": [1.5, None]}
    text = str(report.as_json(content))
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == content


def test_nothing_is_fetched_and_only_known_scripts_run(parsed, html):
    for _, found in parsed.elements:
        for name in ("src", "href", "data", "srcset", "action"):
            link = found.get(name) or ""
            assert link == "" or link.startswith(("#", "data:")), link
        assert not any(name.startswith("on") for name in found)
    assert "@import" not in html[: html.index("<body>")]
    assert "url(" not in html[: html.index("<body>")]
    (policy,) = [found["content"] for tag, found in parsed.elements if tag == "meta" and "http-equiv" in found]
    assert policy.startswith("default-src 'none'; img-src data: blob:;")
    for name in ("report.js", "plotly.js"):
        text = next(t for f, t in parsed.scripts if (f.get("id") == "plotly") == (name == "plotly.js") and f.get("id") != "data")
        assert f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in policy, name


def test_plotly_is_there_once(parsed):
    assert sum("plotly.js v" in text for _, text in parsed.scripts) == 1


def test_same_runs_same_bytes(runs, html):
    assert page(runs) == html


def test_the_page_of_twelve_methods_is_small_and_quick():
    methods = list(METHODS)[:12]
    began = time.process_time()
    text = page(many(methods, seeds=2))
    assert time.process_time() - began < 10
    assert len(text.encode()) <= 8e6
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    assert len(data["cosine"]["steps"]) == 500
    assert sum(len(line["y"]) for lines in data["cosine"]["layers"].values() for line in lines) == 12 * 5 * 500


def test_template_style_and_script_are_in_the_package():
    folder = importlib.resources.files("gradlens.reporting.html") / "template"
    for name in ("report.html.j2", "report.css", "report.js"):
        assert (folder / name).is_file()


# ----------------------------------------------------------------------------------------------------------------- colours


def test_methods_keep_the_figures_colours():
    names = ["bp", "dgl", "dni"]
    assert [look["light"] for look in looks(styles(names))] == [styles(names)[name].colour for name in names]


def test_every_method_is_seen_in_the_dark():
    for name, style in styles(METHODS).items():
        assert contrast(in_the_dark(style.colour), DARK) >= 3, name
    assert in_the_dark("#000000") == "#ebebeb"
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


def test_the_dark_page_has_the_colour_that_lines_are_made_for():
    assert f"--card: {DARK}" in (importlib.resources.files("gradlens.reporting.html") / "template" / "report.css").read_text()


@pytest.mark.parametrize("dark", [False, True])
def test_numbers_are_readable_on_every_cosines_colour(dark):
    colours = cosine_colours(dark)
    assert len(colours) == BINS
    assert all(contrast(colour, ink) >= 4.5 for colour, ink in colours)
    assert len(set(colours)) == BINS


def test_bins_of_cosines():
    assert [cosine_bin(v / 10) for v in range(-10, 11)] == list(range(BINS))
    assert cosine_bin(1.3) == BINS - 1


def test_a_band_has_a_gap_where_nothing_was_recorded():
    at = {0: 0.1, 10: 0.2, 20: 0.2, 90: 0.3}
    points = [LayerPoint("bp", "top", "weight", "null_cosine", step, v, math.nan, math.nan, 1, 0) for step, v in at.items()]
    points.append(LayerPoint("dgl", "top", "weight", "null_cosine", 10, -0.2, math.nan, math.nan, 1, 0))
    band = {"x": [0, 10, 20, 55, 90], "low": [0.1, -0.2, 0.2, None, 0.3], "high": [0.1, 0.2, 0.2, None, 0.3]}
    assert charts.method_band(points) == band
    assert charts.method_band([]) is None


# ---------------------------------------------------------------------------------------------------------- what was measured


def put(path, name, content):
    """A result as `save_result` stores it, without asking git for a version each time."""
    (path / f"{name}.json").write_text(json.dumps(content))


def test_stored_results_are_shown(tmp_path):
    paths = [stored(made(m, s), tmp_path) for m in ("bp", "dgl") for s in (0, 1)]
    rows = []
    for block, test in (("block1", 0.31), ("top", 0.52)):
        rows.append({"step": 30, "block": block, "network": "trained", "labels": "true", "test": test, "train": 0.9})
        rows.append({"step": 0, "block": block, "network": "untrained", "labels": "true", "test": 0.2, "train": 0.5})
    rows += [{"step": 30, "network": "pixels", "block": "pixels", "labels": "true", "test": 0.25}, {"step": 30, "block": "block1"}]
    certificate = {"block": "block1", "verdict": "undecided", "n": 100, "features": 20, "margin": None, "gap": [0.0, 0.01],
                   "n_per_feature": 5.0, "cover_capacity": 42}  # fmt: skip
    put(paths[0], "probe", {"protocol": {"images": 500}, "rows": rows, "separability": [certificate]})
    curve = [[0, 0.1], [1, 0.4], [2, 0.93]]
    put(paths[2], "memorization", {"curve": curve, "area": 0.4575, "epochs_to_50": 1.19, "epochs_to_90": None, "final": 0.93})
    weights = np.arange(2 * 3 * 2 * 2, dtype=float).reshape(2, 3, 2, 2)
    numbers = {"effective_rank": {"trained": 1.5, "untrained": 1.9, "random": None}}
    put(paths[0], "filters", {"kernel": 2, "layer": "block1.conv", "weights": weights.tolist(), "order": [1, 0], "numbers": numbers})
    put(paths[0], "representations", {"rows": [{"step": 30, "block": "block1", "network": "trained", "effective_rank": 7.25}]})
    pair = {
        "run": "dgl-s0",
        "label": "dgl",
        "seed": 0,
        "network": "trained",
        "blocks": ["block1", "top"],
        "matrix": [[0.9, 0.1], [0.2, 0.8]],
    }
    put(paths[0], "cka", {"with": [pair]})
    regret = {"block": "top", "learner": "ogd", "rounds": 8, "loss": 16.0, "best_in_hindsight": 12.0, "regret": 4.0, "bound": 25.0}
    put(paths[1], "online", {"rows": [regret]})
    finding = {"check": "loss spike", "severity": "wrong", "where": "top", "step": 20, "evidence": "it jumped", "advice": "lower --lr"}
    put(paths[3], "doctor", {"findings": [finding, {**finding, "evidence": "it fell"}], "unmade": {"collapsed features": "no images"}})
    put(paths[0], "doctor", {"findings": []})
    found = Parsed(page([load_run(path) for path in paths]))
    assert "The doctor found something wrong: loss spike in dgl." in found.words("verdict")
    assert "2 runs examined: 2 wrong, nothing to watch. No finding in bp." in found.words("doctor")
    assert "dgl 1 wrong: loss spike it jumped; it fell – – lower --lr" in found.words("doctor")
    assert "collapsed features (no images)" in found.words("doctor")
    assert "bp block1 31.0 90.0 20.0 – bp top 52.0 90.0 20.0 –" in found.words("separability")
    assert "Raw pixels: 25.0 % held-out." in found.words("separability")
    assert "undecided 0 to 0.01 100 20 42 5.00" in found.words("separability")
    assert "Not measured for 3 of 4 runs" in found.words("separability")
    assert "images 500" in found.words("separability")
    probe = found.data["charts"]["separability-0"]
    assert [(line["label"], line.get("name"), line["y"]) for line in probe["lines"]] == [
        ("bp", None, [0.31, 0.52]), (None, "untrained network", [0.2, 0.2]), (None, "raw pixels", [0.25, 0.25]),
    ]  # fmt: skip
    assert "dgl 45.8 93.0 – 1.2 not reached – –" in found.words("memorization")
    assert "effective rank 1.50 1.90 –" in found.words("filters")
    assert found.data["charts"]["representations-0"]["lines"][0]["y"] == [7.25]
    cka = found.data["charts"]["representations-1"]
    assert (cka["z"], cka["x_name"], cka["y_name"]) == ([[0.9, 0.1], [0.2, 0.8]], "blocks of dgl s0", "blocks of bp s0")
    assert "dgl s0 0.85 block1 0.90, top 0.80" in found.words("representations")
    assert "top ogd 8 2.000 1.500 4.00 25.00" in found.words("online")
    (image,) = [f["src"] for tag, f in found.elements if tag == "img" and f["src"].startswith("data:image/png")]
    pixels = np.array(Image.open(io.BytesIO(base64.b64decode(image.partition("base64,")[2]))))
    second = 127.5 + 127.5 * weights[1] / 23  # the order puts it first; its largest weight is 23
    assert (pixels[1:3, 1:3, :3] == second.transpose(1, 2, 0).round()).all()


def test_results_that_cannot_be_read_are_reported(tmp_path):
    path = stored(made(), tmp_path)
    (path / "probe.json").write_text("{")
    (path / "filters.json").write_text('{"weights": [[1, "x"]], "numbers": {"moved": 3}}')
    (path / "memorization.json").write_text('{"curve": null}')
    (path / "online.json").write_text('{"rows": "none"}')
    (path / "cka.json").write_text('{"with": [{"blocks": ["a"], "matrix": [[1, 2]]}]}')
    found = Parsed(page([load_run(path)]))
    assert "probe.json is not a result of gradlens: " in found.words("separability")
    assert not [f for tag, f in found.elements if tag == "img" and f["src"].startswith("data:image/png")]


def test_half_a_probe_is_not_shown_as_a_whole_one(tmp_path):
    path = stored(made(), tmp_path)
    control = {"step": 0, "block": "block1", "network": "untrained", "labels": "true", "test": 0.2, "train": 0.3}
    (path / "probe.json").write_text(json.dumps({"protocol": {}, "rows": [control]}))
    words = Parsed(page([load_run(path)])).words("separability")
    assert "Interrupted before the trained network was probed" in words
    assert str(path) in words


def test_a_path_in_a_message_keeps_its_letters(tmp_path):
    path = stored(made(), tmp_path)
    (path / "probe.json").write_text("{")
    assert f"Left out: {path}/probe.json is not a result of gradlens: " in Parsed(page([load_run(path)])).words("separability")


# ------------------------------------------------------------------------------------------------------------ wrong input


def test_wrong_input_is_one_sentence_and_nothing_is_written(tmp_path):
    run = load_run(stored(made(), tmp_path / "runs"))
    out = tmp_path / "report.html"
    with pytest.raises(InputError, match="no run directory was given"):
        write_page([], out)
    with pytest.raises(InputError, match="are the same run .* name it once"):
        write_page([run, run], out)
    with pytest.raises(InputError, match="there is no folder"):
        write_page([run], tmp_path / "nowhere" / "report.html")
    with pytest.raises(InputError, match="is a folder"):
        write_page([run], tmp_path)
    assert not out.exists()
    out.write_text("mine")
    with pytest.raises(InputError, match="--overwrite replaces it"):
        write_page([run], out)
    assert out.read_text() == "mine"


def test_a_page_is_written_and_the_run_left_alone(tmp_path):
    path = stored(made(), tmp_path / "runs")
    before = {p: p.read_bytes() for p in path.iterdir()}
    assert write_page([load_run(path)], tmp_path / "r.html") == [tmp_path / "r.html"]
    write_page([load_run(path)], tmp_path / "r.html", overwrite=True)
    assert {p: p.read_bytes() for p in path.iterdir()} == before
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")


def test_several_experiments_are_an_overview_with_a_section_each_and_a_page_each(tmp_path):
    runs = [made(), made("dgl", accuracy=0.4), made(width=4, path="w"), made("dni", width=4, path="v", finished=False)]
    out = tmp_path / "r.html"
    written = write_page(runs, out)
    pages = ["r-digits-basic-cnn.html", "r-digits-basic-cnn-width4.html"]
    assert [path.name for path in written] == ["r.html", *pages]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["r.html", *pages])
    text = out.read_text()
    assert len(text) < 100_000
    assert [text.count(f'href="{page}"') for page in pages] == [1, 1]
    first, second = text.split("<section ")[1:]
    assert "digits · basic-cnn · width 4" in second
    assert "width 4" not in first
    assert "dgl" not in second
    assert "Not finished, and therefore left out of every number on this page: v (30 updates)." in second
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text
    own = (tmp_path / pages[1]).read_text()
    assert "Not finished, and therefore left out of every number on this page: v (30 updates)." in own
    assert "different" not in own.split("<main>")[1].split("</section>")[0]
    write_page(runs, out)  # of the same runs
    (tmp_path / pages[0]).write_text("mine")
    with pytest.raises(InputError, match="r-digits-basic-cnn.html exists"):
        write_page(runs, out)
    assert (tmp_path / pages[0]).read_text() == "mine"
    write_page(runs, out, overwrite=True)


def test_an_unfinished_run_is_in_no_verdict_beside_finished_ones():
    here = make_report_context([made(), made("dgl"), made("dgl", 1, accuracy=0.1, finished=False), made("dni", finished=False)])
    assert list(here.groups) == ["bp", "dgl"]
    assert [run.path.name for run in here.groups["dgl"]] == ["dgl-s0"]
    assert [run.path.name for run in here.unfinished] == ["dgl-s1", "dni-s0"]


def test_commands_that_a_page_names_can_be_typed(tmp_path):
    runs = [made(), made("dgl"), made("dni"), made("cdni")]

    def named(runs, folder=None):
        section = ReportSection("separability", "Linear separability")
        stored_results(make_report_context(runs, folder), section, "probe", "gradlens probe {}")
        return section.command

    assert named(runs[:3]) == "gradlens probe runs/bp-s0 runs/dgl-s0 runs/dni-s0"
    assert named(runs) == "gradlens probe runs/*"
    assert named(runs, Path("my comparison")) == "gradlens probe 'my comparison'"


def test_the_command(tmp_path, monkeypatch, capsys):
    from gradlens.cli.main import main

    path, out = stored(made(), tmp_path / "runs"), tmp_path / "r.html"

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["gradlens", "report", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    status, said, complaint = run(path, "-o", out)
    assert (status, complaint) == (0, "")
    assert said == f"open {out} ({out.stat().st_size / 1e6:.1f} MB; it works offline)\n"
    assert run(path, "-o", out)[0] == 0  # the same runs
    other = stored(made("dgl"), tmp_path / "runs")
    assert run(other, "-o", out) == (2, "", f"gradlens: {out} is a page of other runs: -o names another file, --overwrite replaces it\n")
    assert run(other, "-o", out, "--overwrite")[0] == 0
    assert run() == (2, "", "gradlens: missing argument 'RUN_OR_COMPARISON...'\n")
