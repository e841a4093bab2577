#!/usr/bin/env python
"""Time the dynamics of inversion beside their matrix products and beside NumPy.

    python scripts/bench_inversion.py [--threads N] [--repeats N] [--json FILE] [--quick]

A 784-1000-10 network, a minibatch of 100, 999 steps. What the matrix products would take is what they come to at the rate
of a large product by the linear algebra library, with the same threads, measured in the same turns.
"""

import sys
from dataclasses import replace

from benchmarks import inversion, subjects
from benchmarks.measuring import (
    Goal,
    Session,
    Subject,
    relative_difference,
    significant,
    thread_counts,
    threads_text,
)
from benchmarks.reporting import Report, add_threads, parser

DTYPES = ("float64", "float32")
PRODUCT, PRODUCT_SIZE = "matrix product", 2048
OURS, NUMPY = "dfc-numba", "NumPy"
OVER_PRODUCTS = 1.5  # bar
AGREEMENT = {"float64": 1e-9, "float32": 1e-3}
GOAL = inversion.CASES[0].name  # what the bar is set for


def main(arguments=None):
    """Measure, print the table, write the file; returns 1 if the two do not agree."""
    options = parse(arguments)
    cases = [replace(case, **inversion.QUICK) if options.quick else case for case in inversion.CASES]
    report = Report("bench_inversion", options)
    with Session() as session:
        add_subjects(session, cases, options)
        session.measure(options.repeats)
    agree = print_times(report, session, cases, options)
    report.write()
    return 0 if agree else 1


def parse(arguments):
    options = parser("bench_inversion", __doc__, repeats=7)
    add_threads(options)
    options = options.parse_args(arguments)
    options.repeats = 1 if options.quick else options.repeats
    options.size = PRODUCT_SIZE // 4 if options.quick else PRODUCT_SIZE
    return options


def wanted(options):
    """Return the (dtype, threads) that are measured."""
    return [(dtype, threads) for threads in thread_counts(options.threads) for dtype in DTYPES]


def named(case, who, dtype, threads):
    return Subject(f"{case.name}, {who}", dtype, threads)


def add_subjects(session, cases, options):
    """Add every case by the package and by NumPy, and the large product."""
    for where in wanted(options):
        session.add(Subject(PRODUCT, *where), subjects.matrix_product, options.size, where[0])
        for case in cases:
            session.add(named(case, OURS, *where), inversion.our_errors, case, where[0])
            session.add(named(case, NUMPY, *where), inversion.numpy_errors, case, where[0])


def print_times(report, session, cases, options):
    """Print one row per case, dtype and number of threads; return whether package and NumPy agree."""
    rows, goals, deviations = [], [], []
    for where in wanted(options):
        for case in cases:
            row, over, deviation = compare(session, case, where, options)
            rows.append(row)
            deviations.append(deviation / AGREEMENT[where[0]])
            if case.name == GOAL:
                name = f"time over that of its products, {where[0]}, {threads_text(where[1])}"
                goals.append(Goal(name, over, OVER_PRODUCTS, 1))
    columns = (
        "", "dtype", "threads", "ms (range)", "GFLOP", "GFLOP/s", "large product", "over its products", "NumPy over it",
        "deviation",
    )  # fmt: skip
    report.table(f"Errors of a minibatch, medians of {options.repeats}", columns, rows)
    report.goals(goals)
    report.results["seconds"] = [
        {**subject._asdict(), "seconds": times, "first_seconds": session.first[subject]}
        for subject, times in session.times.items()
    ]
    return max(deviations) <= 1


def compare(session, case, where, options):
    """Return (row, time over that of the products, deviation from NumPy) of a case."""
    ours, theirs, product = named(case, OURS, *where), named(case, NUMPY, *where), Subject(PRODUCT, *where)
    large = 2 * options.size**3
    over, faster = session.ratio(ours, product, large / case.flop), session.ratio(theirs, ours)
    deviation = relative_difference(session.results[ours], session.results[theirs])
    row = (
        case.name, *where, session.time(ours, 1e3).text(), significant(case.flop / 1e9),
        significant(case.flop / session.time(ours).median / 1e9),
        significant(large / session.time(product).median / 1e9), over.text(), faster.text(), f"{deviation:.0e}",
    )  # fmt: skip
    return row, over, deviation


if __name__ == "__main__":
    sys.exit(main())
