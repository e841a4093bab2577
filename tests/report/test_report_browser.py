"""The page of a run in a real browser: it draws, its sliders work, and it asks for nothing."""

import json

import numpy as np
import pytest
from browser import opened
from report_pages import ATTACK, SMALL, copy_of

import dfc_numba as dfc
from dfc_numba.report.page import write_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
    ),  # of selenium
]
pytest.importorskip("plotly")

READY = "document.body.dataset.ready"
LINES = "return [...document.querySelectorAll('.browser .chart')].map(each => each.data.map(line => line.y))"
TITLES = "return [...document.querySelectorAll('.browser .chart')].map(each => each.layout.title.text)"
SET = """
const input = document.querySelector('.browser ' + arguments[0]);
input.value = arguments[1];
input.dispatchEvent(new Event('input', {bubbles: true}));
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with logged minibatches and measures of the theory."""
    path = tmp_path_factory.mktemp("report") / "run"
    changes = {"log.on": True, "log.samples": 3, "analysis.every": 4, "analysis.samples": 4}
    dfc.train(dfc.load_config("digits", SMALL | changes), out=path)
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with opened(tmp_path_factory.mktemp("profile")) as found:
        yield found


def test_every_chart_is_drawn_without_error_or_request(run, browser, tmp_path):
    browser.open(write_report(run, tmp_path / "page.html"), ready=READY)
    charts = browser.run("return document.querySelectorAll('.chart').length")
    paths = "[...document.querySelectorAll('.chart')].filter(each => each.querySelector('.scatterlayer path.js-line'))"
    assert browser.run(f"return {paths}.length") == charts >= 9
    assert browser.errors() == [] and browser.requests() == []
    assert browser.run("return document.getElementById('failure').hidden")


def test_sliders_and_the_list_move_the_plots(run, browser, tmp_path):
    browser.open(write_report(run, tmp_path / "page.html"), ready=READY)
    first, titles = browser.run(LINES), browser.run(TITLES)
    assert titles[-1].startswith("layer 1, unit")
    browser.run(SET, ".sample", 2)
    second = browser.run(LINES)
    assert len(second) == len(first) and all(one != other for one, other in zip(first, second, strict=True))
    with dfc.open_trajectories(run) as file:
        u = file["forward"][-1]["u"][:, 2]
    shown = browser.run("return [...document.querySelectorAll('.browser .chart')][1].data[0]")
    unit = int(shown["name"].removeprefix("unit "))
    assert np.allclose(shown["y"], u[:, unit], rtol=1e-4, atol=1e-12)
    drawn = (
        "return document.querySelectorAll('.browser .chart')[1].querySelector('.js-line').getAttribute('d')"
    )
    before = browser.run(drawn)
    browser.run(SET, ".layer", 2)
    assert browser.run(TITLES)[-1].startswith("layer 3, unit") and browser.run(drawn) == before
    browser.run(SET, ".record", 1)
    assert browser.run(drawn) != before
    assert browser.run("return document.querySelector('.sample-name').textContent") == "2"
    assert browser.errors() == [] and browser.requests() == []


def test_a_phone_shows_the_page_without_scrolling_sideways(run, browser, tmp_path):
    browser.open(write_report(run, tmp_path / "page.html"), width=390, height=800, ready=READY)
    assert browser.run("return document.documentElement.scrollWidth") <= 390
    widths = browser.run(
        "return [...document.querySelectorAll('.chart .main-svg')].map(each => each.getBoundingClientRect().right)"
    )
    assert widths and max(widths) <= 390
    assert browser.errors() == []


def test_the_page_can_be_printed(run, browser, tmp_path):
    browser.open(write_report(run, tmp_path / "page.html"), ready=READY)
    browser.run(
        "addEventListener('beforeprint', () => { window.printed = document.querySelector('.chart')._fullLayout.width; })"
    )
    assert browser.pdf().startswith(b"%PDF")
    assert (
        browser.run("return window.printed")
        == 330
        < browser.run("return document.querySelector('.chart')._fullLayout.width")
    )
    assert browser.errors() == []


def test_a_run_of_a_stranger_runs_nothing(run, browser, tmp_path):
    record = {
        "status": ATTACK,
        "stop_reason": ATTACK,
        "command": ["dfc", "train", ATTACK],
        "traceback": ATTACK,
    }
    copy = copy_of(run, tmp_path / "<img src=x onerror=attacked=1>", record)
    text = (copy / "config.toml").read_text().replace('"digits"', json.dumps(ATTACK), 1)
    (copy / "config.toml").write_text(text)
    for path in (copy, tmp_path):
        browser.open(write_report(path, tmp_path / "page.html"), ready=READY)
        assert browser.run("return window.attacked === undefined && document.images.length === 0")
        assert browser.errors() == [] and browser.requests() == []


def test_the_policy_stops_a_script_that_is_not_of_the_page(run, browser, tmp_path):
    page = write_report(run, tmp_path / "page.html")
    text = page.read_text(encoding="utf-8")
    page.write_text(
        text.replace("<main>", f"<main>{ATTACK}<script src='https://example.org/x.js'></script>"),
        encoding="utf-8",
    )
    browser.open(page, ready=READY)
    assert browser.run("return window.attacked === undefined")
    assert any("Content Security Policy" in message for message in browser.errors())
