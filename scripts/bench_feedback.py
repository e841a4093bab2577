#!/usr/bin/env python
"""Time the feedback phase of one published MNIST minibatch, from which the feedback weights learn, and its limit.

    python scripts/bench_feedback.py [--threads N] [--repeats N] [--json FILE] [--quick]

48 time points with noise drawn in the kernel: white, as published for DFC, and low-passed, as for Strong-DFC. The limit
("roofline") is the time that the matrix products of this phase alone would take at the rate of a large matrix product by
the linear algebra library, with the same threads, measured in the same turns.
"""

import sys

from benchmarks import subjects
from benchmarks.measuring import (
    Goal,
    Session,
    Subject,
    significant,
    thread_counts,
    threads_text,
)
from benchmarks.reporting import Report, add_threads, parser
from benchmarks.workload import Workload, feedback_controllers

DTYPES = ("float64", "float32")
PRODUCT = "matrix product"
PRODUCT_SIZE = 2048
CALLS = 10  # in a turn
ROOFLINE = (1.8, 1.4)  # bar and aim of the time over the roofline


def main(arguments=None):
    """Measure, print the tables, write the file."""
    options = parse(arguments)
    workload = Workload()
    report = Report("bench_feedback", options)
    steps = feedback_controllers()["white noise"].steps
    gflop = workload.feedback_flop / 1e9
    report.results["workload"] = {**workload.summary(), "steps": steps, "gflop": gflop}
    print(f"{gflop:.2f} GFLOP of matrix products in {steps} steps")
    with Session() as session:
        add_subjects(session, workload, options)
        session.measure(options.repeats)
    print_times(report, session, workload, options)
    report.write()
    return 0


def parse(arguments):
    options = parser("bench_feedback", __doc__, repeats=7)
    add_threads(options)
    options = options.parse_args(arguments)
    options.calls, options.size = (1, PRODUCT_SIZE // 2) if options.quick else (CALLS, PRODUCT_SIZE)
    options.repeats = 1 if options.quick else options.repeats
    return options


def add_subjects(session, workload, options):
    """Add the phase with each kind of noise, and the large product."""
    for threads in thread_counts(options.threads):
        for dtype in DTYPES:
            session.add(Subject(PRODUCT, dtype, threads), subjects.matrix_product, options.size, dtype)
            for noise in feedback_controllers():
                subject = Subject(noise, dtype, threads)
                session.add(subject, subjects.our_feedback_update, workload, dtype, noise, options.calls)


def print_times(report, session, workload, options):
    """Print one row and one goal per subject."""
    product_flop = 2 * options.size**3
    flop = {
        s: product_flop if s.name == PRODUCT else options.calls * workload.feedback_flop
        for s in session.times
    }
    rows, goals = [], []
    for subject in [subject for subject in session.times if subject.name != PRODUCT]:
        product = subject._replace(name=PRODUCT)
        ratio = session.ratio(subject, product, flop[product] / flop[subject])
        milliseconds = session.time(subject, 1e3 / options.calls)
        rate, limit = (flop[s] / session.time(s).median / 1e9 for s in (subject, product))
        rows.append(
            (*subject, milliseconds.text(), significant(rate), significant(limit), significant(ratio.median))
        )
        name = f"time over roofline, {subject.name}, {subject.dtype}, {threads_text(subject.threads)}"
        goals.append(Goal(name, ratio, *ROOFLINE))
    columns = ("", "dtype", "threads", "ms (range)", "GFLOP/s", "large product", "over roofline")
    report.table(f"Feedback phase of one minibatch, medians of {options.repeats}", columns, rows)
    report.goals(goals)
    report.results["calls_per_turn"] = options.calls
    report.results["times"] = session.records(flop)


if __name__ == "__main__":
    sys.exit(main())
