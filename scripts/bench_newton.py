#!/usr/bin/env python
"""Time the update at the exact steady state, by Newton's method, beside the average over a whole simulation.

    python scripts/bench_newton.py [--threads N] [--repeats N] [--json FILE] [--quick]

The published MNIST network with small nudges and with soft labels, and the published autoencoder, which has too many outputs
for matrices. GFLOP are those of the matrix products. 3 GFLOP at the rate of a large matrix product by the linear algebra
library, with the same threads, measured in the same turns, are what the update may cost otherwise.
"""

import sys
from dataclasses import replace

import numpy as np
from benchmarks import newton_cases, subjects
from benchmarks.measuring import Goal, Session, Subject, significant, thread_counts, threads_text
from benchmarks.reporting import Report, add_threads, parser

DTYPES = ("float64", "float32")
PRODUCT, PRODUCT_SIZE = "matrix product", 2048
CALLS = {"MNIST": 10, "autoencoder": 1}  # in a turn
QUICK_STEPS = 20
FASTER, GFLOP = (
    30,
    3,
)  # bars: times faster than the simulation, or operations at the rate of the large product
RESIDUAL = 1e-12
GOAL = newton_cases.CASES[0].name  # what the bars are set for


def main(arguments=None):
    """Measure, print the tables, write the file; returns 1 if a sample has not converged."""
    options = parse(arguments)
    cases = [replace(case, quick=options.quick) for case in newton_cases.CASES]
    report = Report("bench_newton", options)
    with Session() as session:
        add_subjects(session, cases, options)
        session.measure(options.repeats)
    outcomes = {case: outcome(case) for case in cases}
    print_outcomes(report, outcomes)
    print_times(report, session, outcomes, options)
    report.write()
    return 0 if all(one["residual"] <= RESIDUAL for one in outcomes.values()) else 1


def parse(arguments):
    options = parser("bench_newton", __doc__, repeats=5)
    add_threads(options)
    options = options.parse_args(arguments)
    options.repeats = 1 if options.quick else options.repeats
    options.size = PRODUCT_SIZE // 2 if options.quick else PRODUCT_SIZE
    return options


def named(case, readout, dtype, threads):
    """Return the subject of a case; the simulation takes as long for any target of a network."""
    name = f"{case.network}, {readout}" if readout == "average" else f"{case.network}, {case.name}"
    return Subject(name, dtype, threads)


def add_subjects(session, cases, options):
    """Add every case by Newton's method, one simulation per network, and the large product."""
    steps = QUICK_STEPS if options.quick else None
    for threads in thread_counts(options.threads):
        for dtype in DTYPES:
            session.add(Subject(PRODUCT, dtype, threads), subjects.matrix_product, options.size, dtype)
            for case in cases:
                average = named(case, "average", dtype, threads)
                if average not in session.times:
                    session.add(average, newton_cases.average_update, case, dtype, steps)
                newton, calls = named(case, "newton", dtype, threads), CALLS[case.network]
                session.add(newton, newton_cases.newton_update, case, dtype, calls)


def outcome(case):
    """Return what the method does to the samples of a case, as a dict of plain values."""
    iterations, residuals, stable, operations = newton_cases.outcome(case, "float64")()
    return {
        "network": case.network,
        "target": case.name,
        "iterations": [int(np.min(iterations)), float(np.median(iterations)), int(np.max(iterations))],
        "residual": float(np.max(residuals)),
        "stable": float(np.mean(stable)),
        "gflop": float(operations) / 1e9,
    }


def print_outcomes(report, outcomes):
    """Print one row per case."""
    rows = [
        (
            f"{one['network']}, {one['target']}",
            "{} / {:g} / {}".format(*one["iterations"]),
            f"{one['residual']:.1e}",
            f"{100 * one['stable']:.0f} %",
            significant(one["gflop"]),
        )
        for one in outcomes.values()
    ]
    columns = (
        "",
        "iterations: least / median / most",
        "largest relative residual",
        "stable",
        "GFLOP of an update",
    )
    report.table("Newton's method", columns, rows)
    report.results["outcomes"] = list(outcomes.values())


def print_times(report, session, outcomes, options):
    """Print one row per case, dtype and number of threads; goals for the nudge that they are set for."""
    rows, goals = [], []
    for threads in thread_counts(options.threads):
        for dtype in DTYPES:
            for case in outcomes:
                row, goal = compare(
                    session, case, outcomes[case]["gflop"], Subject(PRODUCT, dtype, threads), options
                )
                rows.append(row)
                goals += goal if case.name == GOAL else []
    columns = (
        "",
        "dtype",
        "threads",
        "ms (range)",
        "GFLOP/s",
        "large product",
        "average, s",
        "average over it",
    )
    report.table(f"Update at the steady state, medians of {options.repeats}", columns, rows)
    report.goals(goals)
    report.results["calls_per_turn"] = CALLS
    report.results["seconds"] = [
        {**subject._asdict(), "seconds": times, "first_seconds": session.first[subject]}
        for subject, times in session.times.items()
    ]


def compare(session, case, gflop, product, options):
    """Return (row, goals) of a case beside the simulation and the large product."""
    where, calls = product[1:], CALLS[case.network]
    newton, average = (named(case, readout, *where) for readout in ("newton", "average"))
    seconds, limit = session.time(newton, 1 / calls), 2e-9 * options.size**3 / session.time(product).median
    faster = session.ratio(average, newton, calls)
    over = session.ratio(newton, product, 2e-9 * options.size**3 / (calls * GFLOP))
    row = (
        *newton, session.time(newton, 1e3 / calls).text(), significant(gflop / seconds.median), significant(limit),
        significant(session.time(average).median), faster.text(),
    )  # fmt: skip
    name = f"{newton.name}, {newton.dtype}, {threads_text(newton.threads)}"
    return row, [
        Goal(f"times faster than the average readout, {name}", faster, FASTER, FASTER, at_least=True),
        Goal(f"time over that of {GFLOP} GFLOP, {name}", over, 1, 1),
    ]


if __name__ == "__main__":
    sys.exit(main())
