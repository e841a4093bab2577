#!/usr/bin/env python
"""Time a step of online plasticity for the published MNIST network, beside what it cannot be faster than.

    python scripts/bench_online.py [--repeats N] [--json FILE] [--quick]

784-256-256-256-10, one thread. A step changes every weight and uses it. The limit is the longer of two times, measured in
the same turns: that of its matrix products at the rate of a large product by the linear algebra library, and that of going
over as many weights in place with NumPy.
"""

import sys

from benchmarks import online, subjects
from benchmarks.measuring import Session, Subject, significant
from benchmarks.reporting import Report, parser

DTYPES = ("float64", "float32")
PRODUCT, PRODUCT_SIZE = "matrix product", 2048
SWEEP, SWEEPS = "read and write", 1000


def main(arguments=None):
    """Measure, print the table, write the file."""
    options = parse(arguments)
    report = Report("bench_online", options)
    streams = online.streams(options.quick)
    with Session() as session:
        for dtype in DTYPES:
            add_subjects(session, streams, dtype, options)
        session.measure(options.repeats)
    records = [record(session, stream, dtype, options) for dtype in DTYPES for stream in streams]
    print_steps(report, records)
    report.results["steps"] = records
    report.results["times"] = session.records(flop(session, streams, options))
    report.write()
    return 0


def parse(arguments):
    options = parser("bench_online", __doc__, repeats=5)
    options = options.parse_args(arguments)
    options.size, options.sweeps = (PRODUCT_SIZE // 2, 1) if options.quick else (PRODUCT_SIZE, SWEEPS)
    options.repeats = 1 if options.quick else options.repeats
    return options


def add_subjects(session, streams, dtype, options):
    """Add every stream, and its limits."""
    session.add(Subject(PRODUCT, dtype, 1), subjects.matrix_product, options.size, dtype)
    for length in sorted({stream.swept_weights for stream in streams}):
        session.add(sweep(length, dtype), online.read_and_write, length, dtype, options.sweeps)
    for stream in streams:
        session.add(Subject(stream.name, dtype, 1), online.our_stream, stream, dtype)


def flop(session, streams, options):
    """Return the floating-point operations of one run, by subject; 0 for what only touches memory."""
    known = {PRODUCT: 2 * options.size**3} | {s.name: s.steps * s.flop_per_step for s in streams}
    return {subject: known.get(subject.name, 0) for subject in session.times}


def sweep(length, dtype):
    return Subject(f"{SWEEP} {length}", dtype, 1)


def record(session, stream, dtype, options):
    """Return microseconds of a step and of its limits, as a dict of plain values."""
    rate = 2 * options.size**3 / session.time(Subject(PRODUCT, dtype, 1)).median
    products = stream.flop_per_step / rate
    memory = session.time(sweep(stream.swept_weights, dtype)).median / options.sweeps
    step = session.time(Subject(stream.name, dtype, 1), 1e6 / stream.steps)
    return {
        **stream._asdict(),
        "name": stream.name,
        "dtype": dtype,
        "microseconds": step.median,
        "text": step.text(),
        "microseconds_products": 1e6 * products,
        "microseconds_memory": 1e6 * memory,
        "over_limit": step.median / (1e6 * max(products, memory)),
        "weights": stream.swept_weights,
        "gflop_per_second": stream.flop_per_step / step.median / 1e3,
    }


def print_steps(report, records):
    """Print one row per stream and dtype."""
    rows = [
        (
            one["name"],
            one["dtype"],
            one["text"],
            significant(one["gflop_per_second"]),
            significant(one["microseconds_products"]),
            significant(one["microseconds_memory"]),
            significant(one["over_limit"]),
        )
        for one in records
    ]
    columns = ("stream", "dtype", "us per step (range)", "GFLOP/s", "products", "memory", "over the longer")
    report.table("A step of online plasticity, and its limits in microseconds", columns, rows)


if __name__ == "__main__":
    sys.exit(main())
