"""Options, tables and the JSON file of a benchmark."""

import argparse
import json
import os
from datetime import datetime
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.measuring import say, threads_text
from dfc_numba.support import threads
from dfc_numba.support.environment import environment, processor_name

OPTIONAL_PACKAGES = ("jax", "jaxlib", "matplotlib")
WIDTH = 150  # of the widest table
BUSY = 0.5  # load average above which times are not to be trusted


def parser(name, documentation, *, repeats=None):
    """Create the parser of the options that benchmarks share; `repeats`: default number of turns, or None."""
    options = argparse.ArgumentParser(
        description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument(
        "--json", type=Path, default=Path(f"{name}.json"), metavar="FILE", help="default: %(default)s"
    )
    options.add_argument("--quick", action="store_true", help="a small workload, to see that it works")
    if repeats is not None:
        options.add_argument(
            "--repeats", type=_positive, default=repeats, metavar="N", help="turns; default %(default)s"
        )
    return options


def add_threads(options):
    """Add the option --threads, all processors by default."""
    options.add_argument(
        "--threads", type=_threads, default=threads.available(), metavar="N",
        help="most threads to measure, beside 1; default %(default)s, all there are",
    )  # fmt: skip


def _positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not allowed; a whole number from 1 is")
    return number


def _threads(text):
    number = _positive(text)
    if number > threads.available():
        raise argparse.ArgumentTypeError(f"{text} threads, but only {threads.available()} are available")
    return number


def has(package):
    """Return whether an optional package is installed."""
    return find_spec(package) is not None


class Report:
    """Prints tables, and writes a JSON file at the end: results, machine, versions, load."""

    def __init__(self, name, options):
        self.name, self.path = name, options.json
        self.options = {
            key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()
        }
        self.results, self.load = {}, [_load()]
        self.started = datetime.now().astimezone()
        self._quick, self._console = options.quick, Console(width=WIDTH, highlight=False)
        print(f"{processor_name()}, {threads_text(threads.available())} available")
        if self.load[0] is not None and self.load[0] > BUSY:
            say(f"the machine is busy (load average {self.load[0]:.1f}): times will be too long and vary")

    def table(self, title, columns, rows):
        """Print a table; the first column is text, the others are numbers."""
        self._console.print(f"\n[bold]{title}[/bold]")
        table = Table(box=SIMPLE_HEAD, show_edge=False)
        for column in columns:
            table.add_column(column, justify="left" if column == columns[0] else "right", no_wrap=True)
        for row in rows:
            table.add_row(*map(str, row))
        self._console.print(table)

    def goals(self, goals):
        """Print goals as a table and keep them for the file."""
        title = "Goals (for the full workload, not for this quick one)" if self._quick else "Goals"
        self.table(title, ("", "measured (range)", "bar", "aim", "met"), [goal.row() for goal in goals])
        self.results["goals"] = [goal.record() for goal in goals]

    def write(self):
        """Write the file."""
        self.load.append(_load())
        content = {
            "benchmark": self.name,
            "started": self.started.isoformat(timespec="seconds"),
            "options": self.options,
            "environment": {**environment(), "optional_packages": _versions(OPTIONAL_PACKAGES)},
            "load_average": dict(zip(("before", "after"), self.load, strict=True)),
            **self.results,
        }
        self.path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        print(f"\nwritten: {self.path}")


def _versions(packages):
    return {name: metadata.version(name) if has(name) else None for name in packages}


def _load():
    """Load average of the last minute, or None where the system does not tell."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None
