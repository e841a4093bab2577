#!/usr/bin/env python
"""Time the update of one published MNIST minibatch: this package, a NumPy loop, a JAX scan, and the machine's limit.

    python scripts/bench_update.py [--steps N] [--threads N] [--repeats N] [--json FILE] [--quick]

The limit ("roofline") is the time that the matrix products alone would take at the rate of a large matrix product by the
linear algebra library, with the same threads, measured in the same turns. All peers have to compute the same update. The
memory is what the update's peak adds to the loaded data and network. JAX is left out where it is not installed
(pip install 'dfc-numba[bench]').
"""

import sys
from functools import partial
from itertools import product

import numpy as np
from benchmarks import subjects
from benchmarks.measuring import (
    Goal,
    Session,
    Subject,
    Summary,
    relative_difference,
    significant,
    thread_counts,
    threads_text,
)
from benchmarks.reporting import Report, add_threads, has, parser
from benchmarks.workers import Worker
from benchmarks.workload import Workload

DTYPES = ("float64", "float32")
OURS, PRODUCT, NUMPY, JAX = "dfc-numba", "matrix product", "NumPy loop", "JAX scan"
SOLVED = "dfc-numba, waveform"  # the integrator that solves for the same update in time, to rtol 1e-3
PRODUCT_SIZE = 2048
QUICK = {"steps": 20, "repeats": 1}
SAME_UPDATE = 1e-10  # relative difference of peers in float64
# (bar, aim) of our time over the roofline, of the JAX scan's time over ours, of 1 thread over 2, of the memory in MB
ROOFLINE = {"float64": (1.35, 1.2), "float32": (1.4, 1.2)}
FASTER_THAN_JAX = {"float64": (1.5, 1.8), "float32": (1.2, 1.4)}
TWO_THREADS = (1.85, 1.95)
FASTER_IN_TIME = (20, 40)
MEMORY = (150, 60)
UPDATES = {"Euler": subjects.our_update, "waveform": subjects.solved_update}


def main(arguments=None):
    """Measure, print the tables, write the file; returns 1 if the peers compute different updates."""
    options = parse(arguments)
    workload = Workload(steps=options.steps)
    report = Report("bench_update", options)
    report.results["workload"] = workload.summary()
    print(f"{workload.flop / 1e9:.1f} GFLOP of matrix products in {workload.controller.steps} steps")
    with Session() as session:
        add_subjects(session, workload, options)
        session.measure(options.repeats)
    print_times(report, session, workload, options)
    print_counts(report, workload)
    goals = [*ratio_goals(session, workload, options), *memory_goals(workload, options)]
    report.goals(goals)
    same = print_deviations(report, session)
    report.write()
    return 0 if same else 1


def parse(arguments):
    options = parser("bench_update", __doc__, repeats=5)
    options.add_argument("--steps", type=int, metavar="N", help="Euler steps; default: the published 999")
    add_threads(options)
    options = options.parse_args(arguments)
    if options.quick:
        options.steps, options.repeats = options.steps or QUICK["steps"], QUICK["repeats"]
    return options


def add_subjects(session, workload, options):
    """Add every peer, in both dtypes, with one thread and with all of them."""
    size = PRODUCT_SIZE // 2 if options.quick else PRODUCT_SIZE
    for threads in thread_counts(options.threads):
        for dtype in DTYPES:
            add = partial(add_subject, session, dtype=dtype, threads=threads)
            add(PRODUCT, subjects.matrix_product, size, dtype)
            add(OURS, subjects.our_update, workload, dtype)
            add(SOLVED, subjects.solved_update, workload, dtype)
            add(NUMPY, subjects.numpy_update, workload, dtype)
            if has("jax"):  # a process per dtype, since 64 bits are a setting of the process
                add(JAX, subjects.jax_update, workload, dtype, group=f"jax {dtype}")


def add_subject(session, name, make, *arguments, dtype, threads, group=""):
    session.add(Subject(name, dtype, threads), make, *arguments, group=group)


def flop(subject, workload, options):
    """Return the floating-point operations of one run of a subject."""
    if subject.name != PRODUCT:
        return workload.flop
    return 2 * (PRODUCT_SIZE // 2 if options.quick else PRODUCT_SIZE) ** 3


def over_roofline(session, subject, workload, options):
    """Return a subject's time over that of its matrix products at the rate of the large one."""
    product = subject._replace(name=PRODUCT)
    return session.ratio(subject, product, flop(product, workload, options) / workload.flop)


def print_times(report, session, workload, options):
    """Print one row per subject."""
    rows = []
    for subject in session.times:
        time = session.time(subject)
        rate = significant(flop(subject, workload, options) / time.median / 1e9)
        rate = "" if subject.name == SOLVED else rate  # it takes fewer products
        ratios = ("1", "") if subject.name == PRODUCT else ratio_cells(session, subject, workload, options)
        rows.append((*subject, time.text(), rate, *ratios, significant(session.first[subject])))
    columns = (
        "",
        "dtype",
        "threads",
        "seconds (range)",
        "GFLOP/s",
        "over roofline",
        "over ours",
        "first run, s",
    )
    report.table(f"Update of one minibatch, medians of {options.repeats}", columns, rows)
    report.results["times"] = session.records({s: flop(s, workload, options) for s in session.times})
    if not has("jax"):
        print("JAX scan: skipped, since jax is not installed (pip install 'dfc-numba[bench]')")
        report.results["skipped"] = {JAX: "jax is not installed"}


def print_counts(report, workload):
    """Print how many operations the waveform integrator needs, by what they are for."""
    rows, counts = [], {dtype: workload.solved_flop(dtype) for dtype in DTYPES}
    for dtype, found in counts.items():
        total = sum(found.values())
        parts = [f"{count / 1e9:.3f}" for count in (*found.values(), total)]
        rows.append((dtype, *parts, f"{workload.flop / total:.0f}x"))
    columns = ("", *next(iter(counts.values())), "all", "fewer than Euler")
    report.table("Operations of the waveform integrator, counted, in GFLOP", columns, rows)
    report.results["solved_flop"] = counts


def ratio_cells(session, subject, workload, options):
    """Return a subject's time over the roofline and over ours."""
    roofline = over_roofline(session, subject, workload, options)
    ours = session.ratio(subject, subject._replace(name=OURS))
    return significant(roofline.median), significant(ours.median)


def ratio_goals(session, workload, options):
    """Yield goals: ours against the roofline, the JAX scan, and itself with fewer threads."""
    for subject in [subject for subject in session.times if subject.name == OURS]:
        where = f"{subject.dtype}, {threads_text(subject.threads)}"
        if subject.threads == 1:
            ratio = over_roofline(session, subject, workload, options)
            yield Goal(f"time over roofline, {where}", ratio, *ROOFLINE[subject.dtype])
        ratio = session.ratio(subject, subject._replace(name=SOLVED))
        yield Goal(f"waveform faster than Euler, {where}", ratio, *FASTER_IN_TIME, at_least=True)
        jax = subject._replace(name=JAX)
        if jax in session.times and subject.threads <= 2:
            ratio, goal = session.ratio(jax, subject), FASTER_THAN_JAX[subject.dtype]
            yield Goal(f"faster than JAX, {where}", ratio, *goal, at_least=True)
        if subject.threads == 2:
            ratio = session.ratio(subject._replace(threads=1), subject)
            yield Goal(f"2 threads over 1, {subject.dtype}", ratio, *TWO_THREADS, at_least=True)


def memory_goals(workload, options):
    """Yield the peak memory of the first update of a process, the load of compiled kernels included."""
    for (integrator, update), dtype in product(UPDATES.items(), DTYPES):
        growth = memory_growth(update, workload, dtype, options.threads)
        name = f"peak memory growth in MB, {integrator}, {dtype}, {threads_text(options.threads)}"
        yield Goal(name, Summary.of([growth / 1e6]), *MEMORY)


def memory_growth(update, workload, dtype, threads):
    """Return the bytes that a new process's first update adds, once another one has compiled the kernels."""
    for _ in range(2):
        with Worker(threads) as worker:
            worker.prepare("update", update, workload, dtype)
            growth = worker.memory_growth("update")
    return growth


def print_deviations(report, session):
    """Print differences from our float64 update with one thread; return whether the float64 updates are the same."""
    reference = session.results[Subject(OURS, "float64", 1)]
    deviations = {
        subject: relative_difference(arrays, reference)
        for subject, arrays in session.results.items()
        if subject.name != PRODUCT
    }
    rows = [(*subject, f"{deviation:.1e}") for subject, deviation in deviations.items()]
    columns = ("", "dtype", "threads", "relative norm")
    report.table("Difference from our float64 update", columns, rows)
    same_bits = {dtype: same_for_all_threads(session, dtype) for dtype in DTYPES}
    answers = ", ".join(f"{dtype} {'yes' if same else 'NO'}" for dtype, same in same_bits.items())
    print(f"\nour updates have the same bits for all numbers of threads: {answers}")
    same = all(
        value < SAME_UPDATE
        for subject, value in deviations.items()
        if subject.dtype == "float64" and subject.name != SOLVED
    )
    if not same:
        print(
            f"the float64 updates differ by more than {SAME_UPDATE:g}; the times cannot be compared",
            file=sys.stderr,
        )
    report.results["deviations"] = [
        {**s._asdict(), "relative_norm": value} for s, value in deviations.items()
    ]
    report.results["same_bits"] = same_bits
    return same


def same_for_all_threads(session, dtype):
    """Return whether our updates have the same bits for all numbers of threads."""
    first, *others = [r for s, r in session.results.items() if s.name == OURS and s.dtype == dtype]
    return all(np.array_equal(a, b) for other in others for a, b in zip(first, other, strict=True))


if __name__ == "__main__":
    sys.exit(main())
