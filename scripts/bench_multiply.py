#!/usr/bin/env python
"""Time the parts of a step of one shard, each alone, beside NumPy on the same shapes and a large matrix product.

    python scripts/bench_multiply.py [--repeats N] [--json FILE] [--quick]

One thread. The operands stay in the caches, which they do not all do in a simulation: bench_update tells what a whole
update takes. "Seconds per update" is what a hidden layer of the published MNIST network needs for one minibatch.
"""

import sys

from benchmarks import parts, subjects
from benchmarks.measuring import Session, Subject, significant
from benchmarks.reporting import Report, parser
from benchmarks.workload import Workload

DTYPES = ("float64", "float32")
PRODUCT, PRODUCT_SIZE = "large product", 2048
OURS, NUMPY = "dfc-numba", "NumPy"
SECONDS, QUICK_SECONDS = 0.2, 0.005  # of one measurement, about
ASSUMED_RATE, ASSUMED_PER_ELEMENT = 50e9, 3e-9  # to choose the number of calls


def main(arguments=None):
    """Measure, print the table, write the file."""
    options = parse(arguments)
    report = Report("bench_multiply", options)
    chosen = parts.hidden_layer_parts(Workload())
    with Session() as session:
        add_subjects(session, chosen, options)
        session.measure(options.repeats)
    records = [record(session, part, dtype, options) for dtype in DTYPES for part in chosen]
    limits = {dtype: rate(session, Subject(PRODUCT, dtype, 1), 2 * options.size**3) for dtype in DTYPES}
    print_parts(report, records, limits)
    report.results.update(parts=records, large_product_gflop_per_second=limits)
    report.write()
    return 0


def parse(arguments):
    options = parser("bench_multiply", __doc__, repeats=7)
    options = options.parse_args(arguments)
    options.repeats = 1 if options.quick else options.repeats
    options.size = PRODUCT_SIZE // 2 if options.quick else PRODUCT_SIZE
    return options


def add_subjects(session, chosen, options):
    """Add every part by the package and by NumPy, and the large product."""
    for dtype in DTYPES:
        session.add(Subject(PRODUCT, dtype, 1), subjects.matrix_product, options.size, dtype)
        for part in chosen:
            times = calls(part, options)
            session.add(named(part, OURS, dtype), parts.our_part, part, dtype, times)
            session.add(named(part, NUMPY, dtype), parts.numpy_part, part, dtype, times)


def named(part, who, dtype):
    return Subject(f"{part.name}, {who}", dtype, 1)


def calls(part, options):
    """Return the calls per measurement, so that it takes long enough."""
    elementwise = part.name == parts.ACTIVATION
    seconds = ASSUMED_PER_ELEMENT * part.elements if elementwise else part.flop / ASSUMED_RATE
    return max(1, int((QUICK_SECONDS if options.quick else SECONDS) / seconds))


def rate(session, subject, flop):
    """Return the median GFLOP/s."""
    return flop / session.time(subject).median / 1e9


def record(session, part, dtype, options):
    """Return what was measured of a part, as a dict of plain values."""
    times = calls(part, options)
    ours, theirs = (session.time(named(part, who, dtype)).median / times for who in (OURS, NUMPY))
    return {
        **part._asdict(),
        "dtype": dtype,
        "microseconds": 1e6 * ours,
        "microseconds_numpy": 1e6 * theirs,
        "seconds_per_update": part.calls * ours,
        "speed": speed(part, ours),
        "speed_numpy": speed(part, theirs),
        "unit": "ns/element" if part.name == parts.ACTIVATION else "GFLOP/s",
    }


def speed(part, seconds):
    """Return GFLOP/s of a product, nanoseconds per element of the activations."""
    return 1e9 * seconds / part.elements if part.name == parts.ACTIVATION else part.flop / seconds / 1e9


def print_parts(report, records, limits):
    """Print one row per part and dtype."""
    rows = [
        (
            one["name"],
            one["dtype"],
            f"{one['rows']} x {one['inner']} x {one['outputs']}",
            f"{significant(one['speed'])} {one['unit']}",
            f"{significant(one['speed_numpy'])} {one['unit']}",
            "" if one["name"] == parts.ACTIVATION else significant(limits[one["dtype"]]),
            significant(one["seconds_per_update"]),
        )
        for one in records
    ]
    columns = ("part", "dtype", "rows, in, out", OURS, NUMPY, PRODUCT, "s per update")
    report.table("Parts of a step of one shard, each alone", columns, rows)


if __name__ == "__main__":
    sys.exit(main())
