"""Bars that show how far something has come: on a terminal, in a notebook, or not at all."""

import sys
import threading
import time
from html import escape

REFRESH = 0.2  # seconds between two changes of a bar
PATIENCE = 1.0  # seconds before a bar of something that may be short


def in_notebook():
    """Return whether the program runs in a notebook, which shows rich output."""
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"


def is_watched():
    """Return whether somebody looks: standard error is a terminal, or the program runs in a notebook."""
    return sys.stderr.isatty() or in_notebook()


class NotebookBar:
    """A bar in the output of a notebook's cell; it needs no widgets, and no front end."""

    def __init__(self):
        from IPython.display import HTML, display

        self._html, self._next = HTML, 0.0
        self._handle = display(HTML(""), display_id=True)

    def update(self, done, total, text):
        """Show how far it is, if the last change is long enough ago."""
        now = time.monotonic()
        if now >= self._next or done == total:
            self._next = now + REFRESH
            self._show(f"<progress value='{done}' max='{total}'></progress> {escape(text)}")

    def close(self):
        """Take the bar away."""
        self._show("")

    def _show(self, html):
        if self._handle is not None:
            self._handle.update(self._html(html))


class TerminalBar:
    """A bar on standard error."""

    def __init__(self):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn()
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True, expand=True)
        self._task = self._bar.add_task("", total=None)
        self._bar.start()

    def update(self, done, total, text):
        """Show how far it is."""
        self._bar.update(self._task, completed=done, total=total, description=text)

    def close(self):
        """Take the bar away."""
        self._bar.stop()


class Steps:
    """A number of steps of which some are done; a context manager that shows a bar if they take a while.

    Args:
        text: what is done.
        shown: whether there is a bar; None: where somebody looks.
    """

    def __init__(self, text, shown=None):
        self._text, self._done, self._lock = text, 0, threading.Lock()
        self._shown = is_watched() if shown is None else shown
        self._start, self._bar = time.monotonic(), None

    def advance(self, total):
        """Count one more finished step out of `total`; callable from any thread."""
        with self._lock:
            self._done += 1
            if not self._shown or (self._bar is None and time.monotonic() < self._start + PATIENCE):
                return
            if self._bar is None:
                self._bar = NotebookBar() if in_notebook() else TerminalBar()
            self._bar.update(self._done, total, self._text)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.close()
