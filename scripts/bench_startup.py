#!/usr/bin/env python
"""Time how long a user waits: imports, `dfc --help`, and `dfc train` until its first minibatch is done.

    python scripts/bench_startup.py [--preset NAME] [--repeats N] [--json FILE] [--quick]

Every time is that of a fresh process, taken in turns. A cold start of `dfc train` compiles the kernels into an empty cache
folder; a cached one finds them there. Python's own cache of its modules is filled before.
"""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measuring import Goal, Summary, say
from benchmarks.reporting import Report, parser

COLD, CACHED = "dfc train, cold, until the first minibatch", "dfc train, cached, until the first minibatch"
HELP, VERSION, IMPORT = "dfc --help", "dfc --version", "import dfc_numba and all its public names"
GOALS = {COLD: (45, 20), CACHED: (3, 1.5), HELP: (0.5, 0.5), VERSION: (0.5, 0.5), IMPORT: (1.5, 1.5)}
EVERY_NAME = "import dfc_numba\nfor name in dfc_numba.__all__: getattr(dfc_numba, name)"
# the command line, with a display that ends the program after the first minibatch
TRAIN = """
import os
from dfc_numba import cli
from dfc_numba.display import progress

class FirstMinibatch(progress.NoDisplay):
    def on_minibatch(self, progress):
        print(progress.phase, "minibatch done", flush=True)
        os._exit(0)

progress.choose_display = FirstMinibatch
cli.main()
"""


@dataclass(frozen=True)
class Start:
    """A way to start: arguments of Python, and whether the cache of the kernels is empty."""

    name: str
    arguments: tuple
    cold: bool = False


def main(arguments=None):
    """Measure, print the table, write the file."""
    options = parse(arguments)
    report = Report("bench_startup", options)
    starts = ways_to_start(options)
    with tempfile.TemporaryDirectory() as folder:
        times = measure(starts, options.repeats, Path(folder))
    summaries = {start.name: Summary.of(times[start]) for start in starts}
    rows = [(name, summary.text()) for name, summary in summaries.items()]
    report.table(f"Start of a process, medians of {options.repeats}", ("", "seconds (range)"), rows)
    report.goals([Goal(name, summaries[name], *goal) for name, goal in GOALS.items()])
    report.results["seconds"] = {start.name: times[start] for start in starts}
    report.write()
    return 0


def parse(arguments):
    options = parser("bench_startup", __doc__, repeats=5)
    options.add_argument(
        "--preset", default="digits", metavar="NAME", help="what is trained; default %(default)s"
    )
    options = options.parse_args(arguments)
    options.repeats = 1 if options.quick else options.repeats
    return options


def ways_to_start(options):
    """Return what is timed; the first ones show how much of it is Python and the libraries that the kernels need."""
    code = {
        "python": "",
        "import numpy": "import numpy",
        "import numba, scipy, h5py": "import numba, scipy, h5py",
    }
    code |= {"import dfc_numba": "import dfc_numba", IMPORT: EVERY_NAME}
    train = ("-c", TRAIN, "train", options.preset)
    return [
        *(Start(name, ("-c", text)) for name, text in code.items()),
        Start(HELP, ("-m", "dfc_numba", "--help")),
        Start(VERSION, ("-m", "dfc_numba", "--version")),
        Start(COLD, train, cold=True),
        Start(CACHED, train),
    ]


def measure(starts, turns, folder):
    """Return the seconds of every start, in turns, after one of each to fill the caches."""
    times = {start: [] for start in starts}
    for start in starts:
        if not start.cold:
            say(f"preparing {start.name}")
            run(start, folder)
    for turn in range(turns):
        say(f"turn {turn + 1} of {turns}")
        for start in starts:
            times[start].append(run(start, folder))
    return times


def run(start, folder):
    """Return the seconds of one process; its caches and files are in `folder`.

    Raises:
        SystemExit: with the process's last words, if it failed.
    """
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        environment = {
            **os.environ,
            "PYTHONPYCACHEPREFIX": str(folder / "modules"),
            "NUMBA_CACHE_DIR": fresh if start.cold else str(folder / "kernels"),
        }
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        command = [sys.executable, *start.arguments]
        begin = time.perf_counter()
        done = subprocess.run(
            command, cwd=fresh, env=environment, capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - begin
    if done.returncode != 0:
        raise SystemExit(f"{start.name} failed with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
