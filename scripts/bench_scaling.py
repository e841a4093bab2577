#!/usr/bin/env python
"""Show how the time of an update grows with width, depth, batch, steps and threads.

    python scripts/bench_scaling.py [--threads N] [--repeats N] [--json FILE] [--plot FILE.png] [--quick]

One quantity is varied at a time around the published MNIST network with 100 steps. For the widths, 1 thread and all, the time
stands beside that of the matrix products alone, measured in the same turns: at the rate of a large product by the linear algebra
library with the same threads, and at the rate of this package's own product of 16 samples with a 256 x 256 layer that lies in
the caches, times the threads. The exponent is the slope of a straight
line through the logarithms of both; for width and depth also that against the number of weights that take part in every
step (the constant first layer is computed once). The plot needs matplotlib (pip install 'dfc-numba[plot]').
"""

import sys
from pathlib import Path

import numpy as np
from benchmarks import parts, subjects
from benchmarks.measuring import Goal, Session, Subject, say, significant, thread_counts, threads_text
from benchmarks.reporting import Report, add_threads, has, parser
from benchmarks.workload import Workload

DTYPES = ("float64", "float32")
STEPS, QUICK_STEPS = 100, 5
WIDTH, DEPTH = 256, 3
# values of each variable, and the workload that a value stands for
WIDTHS, DEPTHS = (64, 128, 256, 512, 1024), (2, 3, 5, 9)
BATCHES, TIMES = (16, 32, 64, 128, 256, 512), (0.5, 1, 2, 4, 8)
# the steps of each width beside its products: as published, fewer where an update would take minutes
WIDTH_STEPS = {64: 999, 128: 999, 256: 999, 512: 300, 1024: 100, 2048: 100, 4096: 100}
PRODUCT, OWN_PRODUCT = "matrix product", "own product"
PRODUCT_SIZE, OWN_CALLS = 2048, 2000
OWN_PART = parts.Part(parts.LAYER, 16, 256, 256, 1)
# (bar, aim) of the time over the products at the library's rate, for the narrowest width and for others; of 1 thread over 2
NARROW, OTHERS, TWO_THREADS = (1.5, 1.25), (1.25, 1.1), (1.7, 1.9)


def main(arguments=None):
    """Measure, print the tables, write the file and the plot."""
    options = parse(arguments)
    report = Report("bench_scaling", options)
    points = workloads(options)
    with Session() as session:
        add_subjects(session, points, options)
        session.measure(options.repeats)
    series = [make_series(session, points, variable, dtype) for variable in points for dtype in DTYPES]
    series += [threads_series(session, dtype, options) for dtype in DTYPES]
    print_series(report, series, options)
    print_widths(report, session, options)
    report.results["series"] = series
    report.write()
    draw(series, options.plot)
    return 0


def parse(arguments):
    options = parser("bench_scaling", __doc__, repeats=5)
    add_threads(options)
    options.add_argument(
        "--plot", type=Path, metavar="FILE", help="where to draw the figure; default: nowhere"
    )
    options = options.parse_args(arguments)
    if options.plot and not has("matplotlib"):
        raise SystemExit("--plot needs matplotlib, which is not installed; pip install 'dfc-numba[plot]'")
    options.steps = QUICK_STEPS if options.quick else STEPS
    options.repeats = 1 if options.quick else options.repeats
    return options


def workloads(options):
    """Return workloads by variable and value."""
    end = 2 if options.quick else None
    steps = options.steps
    return {
        "width": {n: Workload(hidden=(n,) * DEPTH, steps=steps) for n in WIDTHS[:end]},
        "hidden layers": {n: Workload(hidden=(WIDTH,) * n, steps=steps) for n in DEPTHS[:end]},
        "samples": {n: Workload(batch=n, steps=steps) for n in BATCHES[:end]},
        "steps": {n: Workload(steps=n) for n in (int(factor * steps) for factor in TIMES[:end])},
    }


def add_subjects(session, points, options):
    """Add every point with one thread, the middle one with every number of threads; widths and products alone with all."""
    size = PRODUCT_SIZE // 2 if options.quick else PRODUCT_SIZE
    for dtype in DTYPES:
        for threads in thread_counts(options.threads):
            session.add(Subject(PRODUCT, dtype, threads), subjects.matrix_product, size, dtype)
            session.add(Subject(OWN_PRODUCT, dtype, threads), parts.our_part, OWN_PART, dtype, OWN_CALLS)
            for width, workload in width_workloads(options).items():
                session.add(width_subject(width, dtype, threads), subjects.our_update, workload, dtype)
        for variable, values in points.items():
            for value, workload in values.items():
                session.add(point(variable, value, dtype), subjects.our_update, workload, dtype)
        for threads in range(1, options.threads + 1):
            subject = Subject("threads", dtype, threads)
            session.add(subject, subjects.our_update, Workload(steps=options.steps), dtype)


def point(variable, value, dtype):
    return Subject(f"{variable} {value}", dtype, 1)


def width_workloads(options):
    """Return workloads by width, to be measured beside their products."""
    chosen = list(WIDTH_STEPS.items())[: 2 if options.quick else None]
    return {
        n: Workload(hidden=(n,) * DEPTH, steps=options.steps if options.quick else steps)
        for n, steps in chosen
    }


def width_subject(width, dtype, threads):
    return Subject(f"width {width} beside its products", dtype, threads)


def make_series(session, points, variable, dtype):
    """Return times and exponents of one variable, as a dict of plain values."""
    values, workloads_ = list(points[variable]), list(points[variable].values())
    times = [session.time(point(variable, value, dtype)) for value in values]
    weights = [workload.weights for workload in workloads_]
    medians = [time.median for time in times]
    return {
        "variable": variable,
        "dtype": dtype,
        "values": values,
        "weights": weights,
        "seconds": medians,
        "seconds_low": [time.low for time in times],
        "seconds_high": [time.high for time in times],
        "gflop_per_second": [w.flop / seconds / 1e9 for w, seconds in zip(workloads_, medians, strict=True)],
        "exponent": exponent(values, medians),
        "exponent_of_weights": exponent(weights, medians) if len(set(weights)) > 1 else None,
    }


def threads_series(session, dtype, options):
    """Return times with several threads, and the speed-up over one."""
    counts = list(range(1, options.threads + 1))
    chosen = [Subject("threads", dtype, count) for count in counts]
    times = [session.time(subject) for subject in chosen]
    return {
        "variable": "threads",
        "dtype": dtype,
        "values": counts,
        "seconds": [time.median for time in times],
        "seconds_low": [time.low for time in times],
        "seconds_high": [time.high for time in times],
        "speedup": [session.ratio(chosen[0], subject).median for subject in chosen],
        "exponent": exponent(counts, [time.median for time in times]) if len(counts) > 1 else None,
    }


def exponent(x, y):
    """Return the power p of the y = c x^p that fits best, by least squares of the logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def print_series(report, series, options):
    """Print a table of the times, and one of the exponents."""
    rows = [row for one in series for row in time_rows(one)]
    columns = ("varied", "dtype", "value", "ms", "rate")
    report.table(f"Update of one minibatch, medians of {options.repeats}", columns, rows)
    keys = ("exponent", "exponent_of_weights")
    rows = [(one["variable"], one["dtype"], *(exponent_text(one.get(key)) for key in keys)) for one in series]
    report.table("Fitted exponents: time ~ value^p", ("varied", "dtype", "p", "p of the weights"), rows)


def print_widths(report, session, options):
    """Print times of the widths over their products alone, and the speed-up of all threads over one."""
    rows, goals = [], []
    for dtype in DTYPES:
        for width, workload in width_workloads(options).items():
            for threads in thread_counts(options.threads):
                subject = width_subject(width, dtype, threads)
                library, own = over_products(session, subject, workload, options)
                faster = session.ratio(subject._replace(threads=1), subject)
                milliseconds = session.time(subject, 1e3).text()
                ratios = [significant(ratio.median) for ratio in (library, own, faster)]
                rows.append((width, dtype, threads, workload.controller.steps, milliseconds, *ratios))
                where = f"width {width}, {dtype}, {threads_text(threads)}"
                goals.append(
                    Goal(f"time over products, {where}", library, *(NARROW if width < 128 else OTHERS))
                )
                if threads == 2:
                    goals.append(Goal(f"1 thread over 2, {where}", faster, *TWO_THREADS, at_least=True))
    columns = (
        "width",
        "dtype",
        "threads",
        "ms (range)",
        "over products",
        "over own products",
        "1 thread over this",
    )
    report.table("Widths: time over the products alone", columns, rows)
    report.goals(goals)


def over_products(session, subject, workload, options):
    """Return the time over that of the products alone: at the rate of the library's large product, and of ours in the caches."""
    product, own = subject._replace(name=PRODUCT), subject._replace(name=OWN_PRODUCT)
    size = PRODUCT_SIZE // 2 if options.quick else PRODUCT_SIZE
    own_flop = (
        OWN_CALLS * OWN_PART.flop * subject.threads
    )  # it takes one thread, of which all could do as much
    return (
        session.ratio(subject, product, 2 * size**3 / workload.flop),
        session.ratio(subject, own, own_flop / workload.flop),
    )


def time_rows(one):
    """Yield the cells of a series: its times, with GFLOP/s or the speed-up over one thread."""
    key, unit = ("speedup", "times one thread") if "speedup" in one else ("gflop_per_second", "GFLOP/s")
    for value, seconds, rate in zip(one["values"], one["seconds"], one[key], strict=True):
        yield one["variable"], one["dtype"], value, significant(1e3 * seconds), f"{significant(rate)} {unit}"


def exponent_text(value):
    return "" if value is None else f"{value:.2f}"


def draw(series, path):
    """Draw one panel per variable, measured times and fitted lines."""
    if path is None:
        return
    from matplotlib.figure import Figure

    variables = list(dict.fromkeys(one["variable"] for one in series))
    figure = Figure(figsize=(3 * len(variables), 3.2), layout="constrained")
    for axes, variable in zip(figure.subplots(1, len(variables), sharey=True), variables, strict=True):
        shown = [one for one in series if one["variable"] == variable]
        axes.set(xscale="log", yscale="log", xlabel=variable)
        axes.set_xticks(shown[0]["values"], shown[0]["values"])
        axes.minorticks_off()
        for one in shown:
            draw_series(axes, one)
        axes.legend(fontsize="small")
    figure.axes[0].set_ylabel("seconds per update")
    figure.savefig(path, dpi=150)
    say(f"drawn: {path}")


def draw_series(axes, one):
    """Draw points with their ranges, and the line of the exponent through their middle."""
    x, y = np.array(one["values"], float), np.array(one["seconds"])
    ranges = np.abs([y - one["seconds_low"], one["seconds_high"] - y])
    fitted = one["exponent"] is not None
    label = f"{one['dtype']}, p = {one['exponent']:.2f}" if fitted else one["dtype"]
    points = axes.errorbar(x, y, ranges, fmt="o", markersize=4, label=label)
    if fitted:
        line = np.exp(np.log(y).mean()) * (x / np.exp(np.log(x).mean())) ** one["exponent"]
        axes.plot(x, line, color=points[0].get_color(), linewidth=1)


if __name__ == "__main__":
    sys.exit(main())
