#!/usr/bin/env python
"""Time training with a log on the published MNIST workload: slow-down, rate and size per compression and interval.

    python scripts/bench_io.py [--threads N] [--dtype float32|float64] [--minibatches N] [--folder DIR] [--repeats N]
                               [--json FILE] [--quick] [--goal]

The forward phase of a few minibatches of random inputs is trained without a log and with logs of 16 samples, all variables,
in float32: of every minibatch and of every 10th, in full with each compression, and as recipes from which `dfc replay`
makes the trajectories. A run ends when its file is complete and on the disk. Beside that, a record is written and nothing
else is done: the rate of each compression. `--goal` takes only the two runs that the goal compares, which leaves time for
longer ones: what is still to be written when the last minibatch is done weighs less in them.
"""

import sys
import tempfile
from pathlib import Path

from benchmarks import logged_training
from benchmarks.measuring import Goal, Session, Subject, significant, threads_text
from benchmarks.reporting import Report, add_threads, has, parser
from benchmarks.workload import Workload

NO_LOG = "no log"
COMPRESSIONS = ("none", "gzip", "zstd", "blosc")
INTERVALS = (10, 1)
BAR = (1.10, 1.05)  # bar and aim of the slow-down by a log of every 10th minibatch, as it is by default
QUICK = {"steps": 20, "minibatches": 10, "repeats": 1}


def main(arguments=None):
    """Measure, print the tables, write the file."""
    options = parse(arguments)
    workload = Workload(steps=options.steps)
    report = Report("bench_io", options)
    report.results["workload"] = {**workload.summary(), "minibatches": options.minibatches}
    compressions = [name for name in COMPRESSIONS if name in COMPRESSIONS[:2] or has("hdf5plugin")]
    if options.goal:
        compressions = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder, Session() as session:
        add_subjects(session, workload, options, compressions, folder)
        session.measure(options.repeats)
        print_training(report, session, options)
        if compressions:
            print_writing(report, session)
    report.goals(goals(session, options))
    if 0 < len(compressions) < len(COMPRESSIONS):
        print(
            "zstd, blosc: skipped, since hdf5plugin is not installed (pip install 'dfc-numba[compression]')"
        )
    report.write()
    return 0


def parse(arguments):
    options = parser("bench_io", __doc__, repeats=5)
    add_threads(options)
    options.add_argument(
        "--dtype", choices=("float64", "float32"), default="float32", help="default: %(default)s"
    )
    options.add_argument(
        "--minibatches", type=int, default=40, metavar="N", help="of a run; default %(default)s"
    )
    options.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="where files are written for a while; default: that of the system",
    )
    options.add_argument("--goal", action="store_true", help="measure only what the goal needs")
    options = options.parse_args(arguments)
    options.steps = None
    if options.quick:
        options.steps, options.minibatches, options.repeats = QUICK.values()
    return options


def logs(compressions):
    """Return the logs by name, as keys of the section [log]."""
    found = {}
    for every in INTERVALS:
        for compression in compressions:
            found[interval_text(every), compression] = {"every": every, "compression": compression}
        found[interval_text(every), "recipes"] = {"every": every, "recipe_only": True}
    return found


def interval_text(every):
    return "every minibatch" if every == 1 else f"every {every}th minibatch"


DEFAULT = {(interval_text(INTERVALS[0]), "none"): {"every": INTERVALS[0], "compression": "none"}}


def name_of(interval, content):
    """Return the name of a log in tables."""
    return f"{interval}, {content}"


def add_subjects(session, workload, options, compressions, folder):
    """Add training without a log and with each log, and the writing of a record, all in the same process."""
    training = workload, options.dtype
    session.add(
        subject(NO_LOG, options), logged_training.training, *training, None, options.minibatches, folder
    )
    measured = logs(compressions) if compressions else DEFAULT
    for (interval, content), log in measured.items():
        # a log of every minibatch takes long, so there are fewer of them
        count = options.minibatches if interval == interval_text(INTERVALS[0]) else short(options)
        one = subject(name_of(interval, content), options)
        session.add(one, logged_training.training, *training, log, count, folder)
    for compression in compressions:
        session.add(subject(compression, options), logged_training.writing, *training, compression, folder)


def short(options):
    """Return the minibatches of a run that logs all of them."""
    return max(1, options.minibatches // 4)


def subject(name, options):
    return Subject(name, options.dtype, options.threads)


def slow_down(session, one, options):
    """Return the time per minibatch over that without a log."""
    count = short(options) if one.name.startswith(interval_text(1)) else options.minibatches
    return session.ratio(one, subject(NO_LOG, options), options.minibatches / count), count


def print_training(report, session, options):
    """Print one row per log."""
    rows, results = [], []
    for one in session.times:
        if one.name in COMPRESSIONS:
            continue
        ratio, count = slow_down(session, one, options)
        size, time = float(session.results[one][0]), session.time(one)
        records = count if one.name.startswith(interval_text(1)) else -(-count // INTERVALS[0])
        per_record = size / records / 1e6
        milliseconds = session.time(one, 1e3 / count)
        rows.append(
            (
                one.name,
                milliseconds.text(),
                ratio.text(),
                significant(per_record),
                significant(size / time.median / 1e6),
            )
        )
        results.append(
            {
                "log": one.name, "minibatches": count, "seconds": session.times[one], "slow_down": ratio.median,
                "bytes": size, "megabytes_per_record": per_record,
            }
        )  # fmt: skip
    title = (
        f"Training, {options.dtype} network, {threads_text(options.threads)}, medians of {options.repeats}"
    )
    report.table(title, ("", "ms per minibatch (range)", "slow-down (range)", "MB per record", "MB/s"), rows)
    report.results["training"] = results


def print_writing(report, session):
    """Print one row per compression."""
    rows, results = [], []
    plain = next(float(session.results[one][0]) for one in session.times if one.name == "none")
    for one in session.times:
        if one.name in COMPRESSIONS:
            size, rate = (
                float(session.results[one][0]),
                [plain / seconds / 1e6 for seconds in session.times[one]],
            )
            time = session.time(one)
            rows.append(
                (one.name, time.text(), significant(plain / time.median / 1e6), significant(plain / size))
            )
            results.append({"compression": one.name, "megabytes_per_second": rate, "bytes": size})
    title = "Writing a record and nothing else, until it is on the disk"
    report.table(title, ("compression", "seconds (range)", "MB/s of trajectory", "times smaller"), rows)
    report.results["writing"] = results


def goals(session, options):
    """Yield the goals of the default: no compression, every 10th minibatch."""
    one = subject(name_of(interval_text(INTERVALS[0]), "none"), options)
    ratio, _ = slow_down(session, one, options)
    yield Goal(f"slow-down by a log of {one.name}, {threads_text(options.threads)}", ratio, *BAR)


if __name__ == "__main__":
    sys.exit(main())
