"""The page in a real browser, see ``browser.py``. One test runs by default; the others are marked ``browser``."""

import json
import math
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
from browser import HOW, WAIT, open_chromium
from made_runs import LAYERS, made, many, stored
from PIL import Image

from gradlens.reporting.html.page import page as html_of
from gradlens.training.run_directory import load_run

MISSING = math.nan


@pytest.fixture(scope="module")
def chromium():
    """One browser for all tests."""
    with open_chromium() as browser:
        yield browser


def usual():
    """Three methods, one without all its numbers."""
    runs = [
        *[made(seed=i, accuracy=0.6 + 0.01 * i, nulls=(0.1,) * 5) for i in range(2)],
        *[made("dgl", seed=i, accuracy=0.5, nulls=(0.05,) * 5, steps=()) for i in range(2)],
        made("greedy", accuracy=0.4, cosines=(MISSING, -0.52, 1, 1, 1), steps=(0, 20)),
    ]
    for i, run in enumerate(runs[2:4]):
        for step, cosine in ((0, -0.8), (10, 0.31), (20, 0.66)):
            run.gradients.extend(made("dgl", cosines=(cosine + 0.02 * i, 0.5, 1, 1, 1), steps=(step,), nulls=(0.05,) * 5).gradients)
    return runs


def nasty():
    """Runs whose names are markup."""
    runs = [made("dgl", path=f"runs/<script>window.hacked={i}</script>", data="<i>x") for i in range(1)]
    return [*runs, made("dgl", seed=1, data="<b>y", path="runs/<img src=x onerror=window.hacked=2>", cosines=(0.3,) * 5)]


def steep():
    """A training loss that falls through several decades."""
    run = made(accuracy=0.9)
    run.metrics[:] = [m._replace(loss=0.005 * 1000 ** (2 - m.epoch) if m.split == "train" else 1 + 0.1 * m.epoch) for m in run.metrics]
    return [run, made("dgl", cosines=(0.3,) * 5)]


def examined():
    """Two methods, one with findings of a doctor."""
    folder = Path(tempfile.mkdtemp())
    paths = [stored(made(), folder), stored(made("dni", cosines=(0.1,) * 5), folder)]
    finding = {"check": "lagging synthesiser", "severity": "wrong", "where": "block1", "step": 20, "why": "It matters, for a reason. " * 5}
    finding |= {"evidence": "the synthesiser of block1 has an explained variance of −8.5 (3 recorded steps, 50 to 70)"}
    finding |= {
        "threshold": "explained variance above 0 (wrong from −0.05), median over the last epoch",
        "advice": "More epochs, or less. " * 5,
    }
    (paths[1] / "doctor.json").write_text(json.dumps({"findings": [finding]}))
    return [load_run(path) for path in paths]


def large():
    """Four methods, many steps."""
    return many(["bp", "dgl", "dni", "cdni"], steps=60)


PAGES = {"usual": usual, "nasty": nasty, "large": large, "steep": steep, "examined": examined}


@pytest.fixture(scope="module")
def file_of(tmp_path_factory):
    """The file of a page by the name of the function that gives its runs, written once."""
    folder = tmp_path_factory.mktemp("pages")

    def written(name):
        file = folder / f"{name}.html"
        if not file.exists():
            file.write_text(html_of(PAGES[name]()), encoding="utf-8")
        return file

    return written


@pytest.fixture(scope="module")
def open_page(chromium, file_of):
    """Opens a page in a new window. Whatever it says on the console, or asks for from anywhere, is an error."""

    def opens(name="usual", charts=False, width=1280, **context):
        window = chromium.new_context(viewport={"width": width, "height": 900}, **context)
        window.set_default_timeout(WAIT)
        tab = window.new_page()
        tab.wrong = []
        tab.on("console", lambda message: tab.wrong.append(message.text) if message.type in ("error", "warning") else None)
        tab.on("pageerror", lambda error: tab.wrong.append(str(error)))
        tab.on("request", lambda request: request.url.startswith(("data:", "blob:", "file:")) or tab.wrong.append(request.url))
        if not charts:
            tab.add_init_script("window.Image = class {}")  # the turn in which plotly is started never comes
        tab.goto(file_of(name).as_uri())  # to the load event: nothing is scrolled to, nothing waited for
        return tab

    return opens


@pytest.fixture
def visit(open_page):
    """The same, for one test."""
    tabs = []

    def opens(*args, **context):
        tabs.append(open_page(*args, **context))
        return tabs[-1]

    yield opens
    for tab in tabs:
        tab.context.close()
    assert [wrong for tab in tabs for wrong in tab.wrong] == []


@pytest.fixture(scope="module")
def drawn(open_page):
    """The usual page with all its charts, for tests that leave it as it was."""
    tab = open_page(charts=True)
    yield tab
    assert tab.wrong == []
    tab.context.close()


def column(tab, table, place):
    """The texts of a table's column."""
    return [row.strip() for row in tab.locator(f"{table} tbody tr > *:nth-child({place})").all_text_contents()]


@pytest.mark.browser
@pytest.mark.smoke
def test_all_charts_are_drawn_and_every_section_is_seen(drawn):
    tab = drawn
    layers = len(LAYERS)  # none is flat: dgl has 0.5 at block2, greedy nothing at block1, and what lies above is 1.00 throughout
    assert tab.locator("figure.chart").count() == tab.locator("figure.chart .main-svg:first-child").count() == 4 + 2 * (layers - 3)
    sections = tab.locator("main > section")
    assert sections.count() == 9
    for i in range(sections.count()):
        assert sections.nth(i).is_visible()
        assert sections.nth(i).locator("h1, h2").first.inner_text()
    lines = tab.evaluate(
        "document.querySelector('[data-chart=\"training-0\"] div').data.filter((t) => t.name).map((t) => [t.name, t.y.length])"
    )
    assert {"bp", "dgl", "greedy", "chance", "noise"} == {name for name, _ in lines}


@pytest.mark.browser
def test_the_slider_moves_the_heat_map_by_keyboard(drawn):
    tab = drawn
    slider = tab.locator("#step")
    slider.focus()
    said = tab.locator("#at")
    assert said.inner_text() == "step 20 of 20, epoch 2 of 2"
    assert column(tab, "#slice", 2) == ["1.00", "0.67", "–"]
    tab.keyboard.press("ArrowLeft")
    assert said.inner_text() == "step 10 of 20, epoch 1 of 2"
    assert slider.get_attribute("aria-valuetext") == said.inner_text()
    assert column(tab, "#slice", 2) == ["1.00", "0.32", "–"]
    tab.keyboard.press("Home")
    assert column(tab, "#slice", 2) == ["1.00", "−0.79", "–"]
    assert column(tab, "#slice", 3) == ["1.00", "0.50", "−0.52"]
    cell = tab.locator("#slice tbody tr:nth-child(2) td").first
    assert cell.get_attribute("class") == "c2"
    assert tab.locator("#slice tbody tr:nth-child(3) td").first.get_attribute("class") == "none"  # greedy has none: striped, not white
    assert "95 % interval" in cell.get_attribute("title")
    marked = "document.querySelector('#maps .map div').layout.shapes[0].x0"
    assert tab.evaluate(marked) == 0
    tab.keyboard.press("End")
    assert tab.evaluate(marked) == 20


@pytest.mark.browser
def test_the_nearest_recorded_step_is_shown_and_named(visit):
    tab = visit()
    tab.locator("#step").focus()
    tab.keyboard.press("ArrowLeft")  # 10, which greedy did not record: 0 and 20 are as near
    assert tab.locator("#slice tbody tr:nth-child(3) td").nth(1).get_attribute("title") == "greedy, block2.conv: −0.520 at step 0"


@pytest.mark.browser
def test_the_slice_without_script_and_with_it_agree(visit):
    with_script, without = visit(), visit(java_script_enabled=False)
    for place in range(1, 7):
        assert column(with_script, "#slice", place) == column(without, "#slice", place)
    classes = [[c.get_attribute("class") or "" for c in tab.locator("#slice td").all()] for tab in (with_script, without)]
    assert classes[0] == classes[1]


@pytest.mark.browser
def test_tables_sort_by_mouse_and_keyboard_with_nothing_last(visit):
    tab = visit()
    head = tab.locator("#summary thead th").nth(3)
    assert head.get_attribute("aria-sort") is None
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert column(tab, "#summary", 1) == ["greedy", "dgl", "bp"]
    tab.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert column(tab, "#summary", 1) == ["bp", "dgl", "greedy"]
    points = tab.locator("#summary thead th").nth(5)
    for wanted in (["greedy", "dgl", "bp"], ["dgl", "greedy", "bp"]):  # bp has no points against itself
        points.locator("button").press("Space")
        assert column(tab, "#summary", 1) == wanted
    assert head.get_attribute("aria-sort") is None
    tab.locator("#summary thead th").first.locator("button").click()
    assert column(tab, "#summary", 1) == ["bp", "dgl", "greedy"]


@pytest.mark.browser
def test_usable_before_plotly_has_started(visit):
    tab = visit()
    assert tab.evaluate("typeof Plotly") == "undefined"
    tab.locator("#summary thead button").nth(3).click()
    assert column(tab, "#summary", 1) == ["greedy", "dgl", "bp"]
    tab.locator("#step").press("Home")
    assert tab.locator("#at").inner_text().startswith("step 0 ")
    tab.locator("#theme").click()
    assert tab.locator("html").get_attribute("data-theme") == "dark"


@pytest.mark.browser
def test_light_and_dark(drawn):
    paper = "getComputedStyle(document.body).backgroundColor"
    ink = "document.querySelector('[data-chart=\"curves-0\"] div').layout.font.color"
    bp = "document.querySelector('[data-chart=\"curves-0\"] div').data.find((t) => t.name === 'bp').line.color"
    tab = drawn
    tab.emulate_media(color_scheme="dark")
    toggle = tab.locator("#theme")
    tab.wait_for_selector("#theme[aria-pressed=true]")
    assert (tab.evaluate(paper), tab.evaluate(ink), tab.evaluate(bp)) == ("rgb(18, 23, 28)", "#e7eaed", "#ebebeb")
    assert toggle.get_attribute("aria-pressed") == "true"
    toggle.press("Enter")
    assert (tab.evaluate(paper), tab.evaluate(ink), tab.evaluate(bp)) == ("rgb(246, 247, 248)", "#1b2026", "#000000")
    assert toggle.get_attribute("aria-pressed") == "false"
    tab.emulate_media(color_scheme="light")
    tab.wait_for_timeout(100)
    toggle.press("Enter")
    assert tab.evaluate(paper) == "rgb(18, 23, 28)"
    toggle.press("Enter")


@pytest.mark.browser
def test_a_phones_width_has_no_sideways_scrolling(visit):
    tab = visit("large", charts=True, width=375)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 375
    assert tab.evaluate("Math.max(...[...document.querySelectorAll('.main-svg')].map((s) => s.getBoundingClientRect().right))") <= 375
    names = visit("nasty", width=375)
    assert names.evaluate("document.documentElement.scrollWidth") <= 375
    wide = tab.evaluate("[...document.querySelectorAll('.scroll')].some((s) => s.scrollWidth > s.clientWidth)")
    assert wide, "the wide tables scroll inside their own boxes"
    summary = tab.locator(".scroll", has=tab.locator("#summary"))
    assert summary.get_attribute("data-more").endswith("more columns →")
    summary.evaluate("box => box.scrollTo(box.scrollWidth, 0)")
    tab.wait_for_function("document.querySelector('#summary').closest('.scroll').dataset.more === ''")


@pytest.mark.browser
def test_names_that_are_markup_are_shown_as_text(visit):
    tab = visit("nasty", charts=True)
    assert tab.evaluate("window.hacked") is None
    assert tab.locator("#config summary").first.inner_text().startswith("runs/<script>window.hacked=0</script>")
    assert "onerror=window.hacked=2" in tab.locator("#config summary").nth(1).inner_text()
    assert tab.locator("main img:not(.on-light, .on-dark)").count() == 0  # all others are the schematics of the rules
    names = tab.locator("#maps .map").first.locator(".yaxislayer-above text, .ytick text").all_text_contents()
    assert any("<i>x" in name for name in names), names
    assert any("<i>x" in name for name in tab.locator(".chip").all_inner_texts())


@pytest.mark.browser
def test_chips_hide_a_method_everywhere(drawn):
    tab = drawn
    names = "document.querySelector('[data-chart=\"curves-0\"] div').data.map((t) => t.name).filter(Boolean)"
    assert tab.evaluate(names) == ["bp", "dgl", "greedy"]
    chip = tab.locator('.chip[data-method="1"]')
    chip.press("Enter")
    assert chip.get_attribute("aria-pressed") == "false"
    assert tab.evaluate(names) == ["bp", "greedy"]
    assert not tab.locator("#slice tbody tr").nth(1).is_visible()
    chip.press("Enter")
    assert tab.evaluate(names) == ["bp", "dgl", "greedy"]
    bands = "document.querySelector('[data-chart=\"training-0\"] div').data.filter((t) => t.fill === 'toself').length"
    before = tab.evaluate(bands)
    tab.locator("#bands").click()
    assert (before > 0, tab.evaluate(bands)) == (True, 0)
    tab.locator("#bands").click()


@pytest.mark.browser
def test_two_methods_are_compared(visit):
    tab = visit()
    tab.locator("#left").select_option("0")
    tab.locator("#right").select_option("1")
    shown = tab.locator("#differ-table thead th:visible")
    assert [text.strip() for text in shown.all_inner_texts()][2:] == ["bp", "dgl"]
    rows = tab.locator("#differ-table tbody tr:visible")
    assert tab.locator("#differ").inner_text() == f"{rows.count()} of their settings and facts differ"
    for row in rows.all():
        first, second = row.locator("td:visible").all_inner_texts()[1:]
        assert first != second
    tab.locator("#left").select_option("")
    assert tab.locator("#differ-table thead th:visible").count() == 5


@pytest.mark.browser
def test_everything_is_reached_by_keyboard(visit):
    tab = visit()
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    assert tab.locator(".skip").bounding_box()["x"] >= 0
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "verdict"
    reached = set()
    for _ in range(80):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate("document.activeElement.id || document.activeElement.className || document.activeElement.localName"))
    assert {"scroll", "chip", "step", "left", "right", "summary"} <= reached
    outline = tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


@pytest.mark.browser
def test_without_javascript_verdict_and_tables_read(visit):
    tab = visit(java_script_enabled=False)
    assert "Cosine 0.72" in tab.locator("#verdict").inner_text()
    assert "Without JavaScript the charts are not drawn" in tab.locator("#verdict").inner_text()
    assert column(tab, "#summary", 1) == ["bp", "dgl", "greedy"]
    assert tab.locator("table:visible").count() == tab.locator("table").count()
    assert not tab.locator("#step").is_visible()
    assert not tab.locator("figure.chart").first.is_visible()
    assert not tab.locator("#theme").is_visible()


@pytest.mark.browser
def test_print(drawn):
    tab = drawn
    line = "document.querySelector('[data-chart=\"curves-0\"] div').data.find((t) => t.name === 'bp').line.color"
    if tab.get_attribute("#theme", "aria-pressed") == "false":
        tab.locator("#theme").click()
    assert tab.evaluate(line) == "#ebebeb"
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert tab.evaluate(line) == "#000000"
    tab.emulate_media(media="print")
    assert not tab.locator("nav").is_visible()
    assert not tab.locator("#step").is_visible()
    assert tab.locator(".legend").is_visible()  # without it no line has a name on paper
    assert tab.evaluate("getComputedStyle(document.querySelector('#slice .c20')).printColorAdjust") == "exact"
    widths = "[...document.querySelectorAll('figure.chart .main-svg')].map((svg) => svg.getBoundingClientRect().width)"
    assert max(tab.evaluate(widths)) <= 346
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.evaluate("getComputedStyle(document.querySelector('h2')).color") == "rgb(27, 32, 38)"
    assert tab.locator("#config details[open]").count() == 5
    tables = "[...document.querySelectorAll('.scroll')].every((box) => box.scrollWidth <= box.clientWidth + 1)"
    tab.set_viewport_size({"width": 703, "height": 1000})  # A4 between its margins
    assert tab.evaluate(tables), "no column lies beyond the paper's edge"
    tab.set_viewport_size({"width": 1280, "height": 900})
    tab.emulate_media(media="screen")
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    assert tab.evaluate(line) == "#ebebeb"
    assert tab.locator("#config details[open]").count() == 0


@pytest.mark.browser
def test_a_browser_without_a_window_pictures_and_prints_every_chart(file_of, tmp_path):
    """What `chromium --headless` writes by itself: no script of ours waits for a chart."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip(f"no chromium: {HOW}")
    flags = ["--headless", "--disable-gpu", "--disable-background-networking", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    shot, paper = tmp_path / "page.png", tmp_path / "page.pdf"
    for i, (out, more) in enumerate(
        ((f"--screenshot={shot}", ["--window-size=1280,4600"]), (f"--print-to-pdf={paper}", ["--virtual-time-budget=100"]))
    ):
        profile = f"--user-data-dir={tmp_path / str(i)}"
        subprocess.run([path, *flags, profile, out, *more, file_of("usual").as_uri()], check=True, capture_output=True, timeout=WAIT / 1000)
    picture = np.array(Image.open(shot).convert("RGB")).astype(int)
    blue = (abs(picture - [5, 48, 97]).sum(-1) < 12).sum(1)  # 1.00 in the table, and in bp's row of each map
    wide = np.flatnonzero(blue > 400)  # maps: two beside each other, of some 450 px each
    assert len(wide) > 30
    assert paper.read_bytes().startswith(b"%PDF")
    assert paper.stat().st_size > 100_000  # 20,000 without charts


@pytest.mark.browser
def test_log_axes_are_labelled_as_people_read_them(visit):
    tab = visit("steep", charts=True)
    axis = """(name) => {
        const place = [...document.querySelectorAll("figure.chart")].find((f) => f.querySelector("figcaption").textContent === name);
        return [...place.querySelectorAll(".yaxislayer-above .ytick text, .ytick text")].map((t) => t.textContent);
    }"""
    assert tab.evaluate(axis, "train loss") == ["0.01", "0.1", "1"]
    kinds = "['curves-2', 'curves-3'].map((name) => document.querySelector(`[data-chart=${name}] div`).layout.yaxis.type)"
    assert tab.evaluate(kinds) == ["linear", "log"]  # test loss, whose range is small, and train loss


@pytest.mark.browser
def test_maps_have_a_scale_and_stripes_where_there_is_no_value(drawn):
    tab = drawn
    scale = tab.locator("#cosine .scale")
    assert scale.inner_text().split() == ["cosine", "−1", "−0.5", "0", "0.5", "1", "no", "value"]
    assert scale.locator(".bar i").count() == 21
    patterns = "document.querySelector('#maps .map div').data.map((t) => [t.type, (t.fillpattern || {}).shape])"
    assert tab.evaluate(patterns) == [["scatter", "/"], ["heatmap", None]]  # greedy recorded no cosine of block1


@pytest.mark.browser
def test_no_column_leaves_its_box_on_a_wide_screen(visit):
    tab = visit("examined")
    assert tab.locator("#doctor td.words").count() >= 5
    assert tab.evaluate("[...document.querySelectorAll('#doctor .scroll')].every((box) => box.scrollWidth <= box.clientWidth)")
    assert tab.locator(".scroll", has=tab.locator("#summary")).get_attribute("data-more") == ""
