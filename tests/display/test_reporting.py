"""What people see of a run: durations, lines, and what it will need."""

import io
import sys
from types import SimpleNamespace

import pytest

from dfc_numba.configuration.config import Config
from dfc_numba.display import progress as displays
from dfc_numba.runs.run_directory import METRICS

STARTED = SimpleNamespace(config=Config())
ROW = {**dict.fromkeys(METRICS, 0.25), "epoch": 7, "seconds": 83.0}


def progress(**changes):
    fields = {"phase": "forward", "epoch": 2, "minibatch": 3, "minibatches": 41}
    values = {"loss": 0.5, "accuracy": 0.9, "seconds_left": 75.0}
    return SimpleNamespace(**{**fields, **values, **changes})


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"), (9.94, "9.9 s"), (12.4, "12 s"), (59.6, "1 min"), (75, "1 min 15 s"), (3600, "1 h"),
        (5400, "1 h 30 min"),
        (100000, "1 d 3 h"),
    ],
)  # fmt: skip
def test_durations_are_written_as_people_say_them(seconds, text):
    assert displays.duration(seconds) == text


@pytest.mark.parametrize(("n_bytes", "text"), [(3.5e7, "35 MB"), (1.25e9, "1.2 GB")])
def test_sizes_are_written_as_people_say_them(n_bytes, text):
    assert displays.size(n_bytes) == text


def test_a_plain_display_prints_a_line_per_epoch_and_one_every_so_often(capsys):
    with displays.PlainDisplay(interval=0.0) as display:
        display.on_start(STARTED)
        display.on_minibatch(progress())
        display.on_epoch(ROW)
    output, errors = capsys.readouterr()
    assert errors == "forward 2/10, minibatch 3/41  loss 0.5  accuracy 90.00 %  1 min 15 s left\n"
    assert output == ("epoch  7/10  train 0.25 25.00 %  val 0.25 25.00 %  test 0.25 25.00 %  1 min 23 s\n")


def test_a_display_may_say_which_run_it_shows(capsys):
    with displays.PlainDisplay(interval=0.0, label="run 2/7, ") as display:
        display.on_start(STARTED)
        display.on_minibatch(progress())
    assert capsys.readouterr().err.startswith("run 2/7, forward 2/10, minibatch 3/41")


def test_a_plain_display_is_quiet_in_between(capsys):
    with displays.PlainDisplay() as display:
        display.on_start(STARTED)
        display.on_minibatch(progress())
    assert capsys.readouterr() == ("", "")


def test_unknown_numbers_are_left_out():
    unknown = progress(phase="pretraining", loss=None, accuracy=None, seconds_left=None)
    assert displays.progress_numbers(unknown) == []
    assert displays.progress_text(unknown, {"pretraining": 3, "forward": 10}) == "pretraining 2/3"


def test_a_live_display_shows_the_run_and_tidies_up(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    display = displays.choose_display("run 2/7, ")
    assert isinstance(display, displays.LiveDisplay)
    with pytest.raises(KeyboardInterrupt), display:
        display.on_start(STARTED)
        display.on_minibatch(progress())
        display._bar.refresh()
        raise KeyboardInterrupt
    text = sys.stderr.getvalue()
    assert "run 2/7, forward 2/10" in text and "accuracy 90.00 %" in text and "3/41" in text
    assert text.endswith("\x1b[?25h") or text.count("\x1b[?25h") == text.count("\x1b[?25l")


def test_no_terminal_gets_plain_lines():
    assert isinstance(displays.choose_display(), displays.PlainDisplay)


def test_a_display_that_shows_nothing_takes_every_event():
    with displays.NoDisplay() as display:
        assert not any(
            hasattr(display, event) for event in ("on_start", "on_minibatch", "on_epoch", "on_end")
        )
