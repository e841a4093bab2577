#!/usr/bin/env python
"""Measure one minibatch over ranks and threads, and project how many ranks pay for which network on which interconnect.

    python scripts/bench_ranks.py [--ranks 1,2,4] [--threads 1,2] [--repeats N] [--cores 8] [--json FILE] [--plot FILE.png]

Starts itself under mpirun (pip install 'dfc-numba[mpi]' mpich) for each number of ranks and threads of a rank. Strong scaling:
the same minibatch; weak scaling: a minibatch of 128 samples a rank. The time of a minibatch is modelled as

    T(R) = crowding * (serial + divided * largest share of the shards) + communication(R)
    communication(R) = ceil(log2 R) * (2 latency * exchanges + (nodes + 1) sums / bandwidth)
                       + 2 united / bandwidth + 2 ceil(log2 R) latency * messages

with `serial` and `divided` (seconds), `sums` in a number of `exchanges` and `united` in a number of `messages` (bytes: sums
over shards, and what belongs to single samples) counted with one rank. `crowding` is 1, or the threads of all ranks per
processor where
there are more of them than processors. Latency and bandwidth are measured here between two processes, and assumed for 10 GbE and
InfiniBand. Wall-clock times depend on what else the machine does; the processor time of a rank outside communication does not,
and shows how the work is divided also where ranks share processors. `serial` and `divided` are processor times.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from math import ceil, log2
from pathlib import Path

import numpy as np

import dfc_numba as dfc
from dfc_numba.model.products import shards_of
from dfc_numba.support import ranks
from dfc_numba.support.threads import limit_threads

PAPER_STEPS = 999
SAMPLES = 128


@dataclass(frozen=True)
class Workload:
    """A network and how its feedback phase is solved: `steps` of the 999 of the paper; `weak`: its weak scaling counts, too."""

    sizes: tuple
    integrator: str
    steps: int
    weak: bool = True


# time of Euler steps is proportional to their number, that of the waveform integrator does not depend on it
PAPER, WIDE = (784, 256, 256, 256, 10), (784, 4096, 4096, 10)
WORKLOADS = {
    "paper, euler": Workload(PAPER, "euler", 200),
    "paper, waveform": Workload(PAPER, "waveform", PAPER_STEPS),
    "4096 wide, euler": Workload(WIDE, "euler", 4, weak=False),
    "4096 wide, waveform": Workload(WIDE, "waveform", PAPER_STEPS, weak=False),
}
ALPHA, NUDGE = 0.0013890445, 0.078
INTERCONNECTS = {"10 GbE": (30e-6, 1.1e9), "InfiniBand 100 Gb/s": (2e-6, 11e9)}  # latency in s, bytes/s
PROJECTED = (1, 2, 4, 8, 16, 32)
LARGER = 16  # times the samples of a minibatch, in the projection


def main(arguments=None):
    """Measure and project, or be one of the measured ranks."""
    options = parser().parse_args(arguments)
    if options.worker:
        with ranks.session():
            print(json.dumps(worker(options)), flush=True)
            ranks.finish()
        return
    measured_here = read(options.reuse) if options.reuse else measure(options)
    rows = report(measured_here)
    projection = project(measured_here["points"], options)
    if options.json:
        options.json.write_text(
            json.dumps({**measured_here, "points": rows, "projection": projection}, indent=1)
        )
    if options.plot:
        draw(rows, projection, options)


def measure(options):
    """Measure: rows of points, latency and bandwidth between two ranks here, number of processors."""
    points, here, counts = [], None, numbers(options.ranks)
    for count, threads in product(counts, numbers(options.threads)):
        if count * threads > max(*counts, threads):
            continue
        found = started(count, threads, options)
        here = here or found["interconnect"]
        points += found["points"]
    return {"points": points, "interconnect": here, "processors": len(os.sched_getaffinity(0))}


def numbers(text):
    """Return the whole numbers of a text such as 1,2,4."""
    return [int(part) for part in text.split(",")]


def read(path):
    """Return what `measure` returns, from a file that --json has written."""
    stored = json.loads(path.read_text())
    return {key: stored[key] for key in ("points", "interconnect", "processors")}


def parser():
    """Create the parser of the command line."""
    made = argparse.ArgumentParser(
        "bench_ranks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--ranks", default="1,2,4", help="numbers of ranks to measure, with 1; default 1,2,4")
    made.add_argument(
        "--threads",
        default="1",
        help="threads of each rank to measure, with 1; default 1 (no more threads of all ranks than the most of either)",
    )
    made.add_argument(
        "--cores", type=int, default=8, help="threads of each rank in the projection; default 8"
    )
    made.add_argument("--repeats", type=int, default=5)
    made.add_argument("--only", action="append", choices=list(WORKLOADS), help="may be repeated; default all")
    made.add_argument("--json", type=Path)
    made.add_argument("--plot", type=Path)
    made.add_argument(
        "--reuse", type=Path, metavar="FILE.json", help="project again from what --json has written"
    )
    made.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return made


def started(count, threads, options):
    """Measure one number of ranks, of a number of threads each."""
    line = [
        sys.executable,
        __file__,
        "--worker",
        "--threads",
        str(threads),
        "--repeats",
        str(options.repeats),
    ]
    line += [f"--only={name}" for name in options.only or []]
    if count > 1:
        spec = find_spec("mpi4py")
        if spec is None:
            sys.exit("no MPI: pip install 'dfc-numba[mpi]' mpich")
        beside = Path(spec.origin).parents[4] / "bin" / "mpirun"
        line = [str(beside) if beside.exists() else "mpirun", "-n", str(count), *line]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{count} ranks failed: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def worker(options):
    """Measure every workload on this rank; the slowest rank counts."""
    points, threads = [], int(options.threads)
    with limit_threads(threads):
        for name in options.only or WORKLOADS:
            workload = WORKLOADS[name]
            for weak in (False, True) if workload.weak and threads == 1 else (False,):
                samples = SAMPLES * ranks.size() if weak else SAMPLES
                facts = {"workload": name, "ranks": ranks.size(), "threads": threads, "weak": weak}
                points.append(facts | measured(workload, samples, options.repeats))
    return {"points": points, "interconnect": interconnect()}


class Stopwatch:
    """Processor time of the divided part and of communication; bytes and number of what is exchanged."""

    def __init__(self):
        self.divided = self.communication = 0.0
        self.counts = dict.fromkeys(("sums", "exchanges", "united", "messages"), 0)
        self._before = {name: getattr(ranks, name) for name in ("own", "complete", "unite")}

    def __enter__(self):
        ranks.own, ranks.complete, ranks.unite = self._own, self._complete, self._unite
        return self

    def __exit__(self, *_):
        for name, function in self._before.items():
            setattr(ranks, name, function)

    def _own(self, pieces):
        self._start = time.process_time()
        return self._before["own"](pieces)

    def _complete(self, *arguments):
        self.divided += time.process_time() - self._start
        total = self._communicate("complete", arguments)
        self._count(sums=total.nbytes, exchanges=1)
        return total

    def _unite(self, *arrays):
        self._count(
            united=sum(array.nbytes for array in arrays), messages=sum(array.size > 0 for array in arrays)
        )
        return self._communicate("unite", arrays)

    def _communicate(self, name, arguments):
        start = time.process_time()
        result = self._before[name](*arguments)
        self.communication += time.process_time() - start
        return result

    def _count(self, **more):
        for name, number in more.items():
            self.counts[name] += number


def measured(workload, samples, repeats):
    """Measure one minibatch: seconds, processor time (all, divided part) without communication, communication, bytes.

    Of the repetitions the least counts, which other work on the machine disturbed least; of the ranks the slowest.
    """
    rng, sizes = np.random.default_rng(0), workload.sizes
    net = dfc.Network.create(
        list(sizes), hidden_activation="tanh", feedback_init="weight_product", seed=0, dtype="float32"
    )
    x, labels = (rng.random((samples, sizes[0]), np.float32), rng.integers(sizes[-1], size=samples))
    target = dfc.output_target(net, x, labels, loss="cross_entropy", step=NUDGE)
    controller = dfc.Controller(
        dt=0.02, steps=workload.steps, alpha=ALPHA, k_p=2.0, tau_v=0.2, integrator=workload.integrator
    )
    rows = []
    for _ in range(repeats + 1):
        world = ranks.world()
        if world:
            world.seconds, world.bytes = 0.0, 0
            world.communicator.Barrier()
        start, busy = time.perf_counter(), time.process_time()
        with Stopwatch() as watch:
            update = dfc.forward_update(net, x, target, controller)
        seconds, busy = time.perf_counter() - start, time.process_time() - busy - watch.communication
        rows.append((seconds, busy, watch.divided, *((world.seconds, world.bytes) if world else (0.0, 0))))
    slowest = (
        [max(column) for column in zip(*row, strict=True)]
        for row in zip(*ranks.gather(rows[1:]), strict=True)
    )
    columns = [min(column) for column in zip(*slowest, strict=True)]
    names = ("seconds", "busy", "divided", "communication", "bytes")
    stepped = 0 if update.fallback is None else int(update.fallback.sum())
    facts = {"shards": len(shards_of(net, samples)), "steps": workload.steps, "stepped_after_all": stepped}
    return dict(zip(names, columns, strict=True)) | watch.counts | facts


def interconnect():
    """Return (latency, bytes/s) between two ranks, from messages of 8 bytes and 8 MB; None with one."""
    world = ranks.world()
    if world is None:
        return None
    times = {}
    for size, repeats in ((8, 200), (2**23, 10)):
        buffer = np.zeros(size, np.uint8)
        world.communicator.Barrier()
        start = time.perf_counter()
        for _ in range(repeats):
            if world.rank == 0:
                world.communicator.Send(buffer, 1)
                world.communicator.Recv(buffer, 1)
            elif world.rank == 1:
                world.communicator.Recv(buffer, 0)
                world.communicator.Send(buffer, 0)
        times[size] = (time.perf_counter() - start) / repeats / 2
    return ranks.share([times[8], 2**23 / times[2**23]])


def communication(one, count, latency, bandwidth):
    """Return the modelled seconds of the communication of one minibatch."""
    if count == 1:
        return 0.0
    rounds = ceil(log2(count))
    nodes = 1 if one["shards"] % count == 0 and log2(count) % 1 == 0 else 2
    sums = rounds * (2 * latency * one["exchanges"] + (nodes + 1) * one["sums"] / bandwidth)
    return sums + 2 * one["united"] / bandwidth + 2 * rounds * latency * one["messages"]


def share(shards, count, threads):
    """Return the largest share of the work that one thread has."""
    return ceil(ceil(shards / count) / threads) / shards


def busiest(one, count, threads):
    """Return (alone, divided): modelled processor time of a thread outside communication, from that of one rank and thread."""
    single = one["divided"] / share(one["shards"], 1, 1)
    return one["busy"] - one["divided"], single * share(one["shards"], count, threads)


def modelled(one, count, threads, speed, processors=None):
    """Return modelled seconds of a minibatch, from what one rank of one thread has measured.

    Args:
        processors: that all ranks have together; None where each thread has its own.
    """
    alone, divided = busiest(one, count, threads)
    if processors is not None:
        working = min(threads, ceil(one["shards"] / count)) * count  # threads at the same time
        alone, divided = alone * max(1.0, count / processors), divided * max(1.0, working / processors)
    return alone + divided + communication(one, count, *speed)


def report(found):
    """Print what was measured beside the model; return the rows with speed-up, efficiency and model."""
    points, here, processors = found["points"], found["interconnect"] or (0.0, 1.0), found["processors"]
    print(
        f"processors: {processors}; between two ranks: latency {1e6 * here[0]:.1f} us, {here[1] / 1e9:.2f} GB/s\n"
    )
    print(
        "| workload | ranks x threads | processor time of a thread, s | model | divided by | efficiency | MB moved | "
        "wall clock, s | model | communication, waiting |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    rows = []
    for weak, name in product((False, True), WORKLOADS):
        chosen = [point for point in points if point["workload"] == name and point["weak"] is weak]
        one = next((point for point in chosen if point["ranks"] == point["threads"] == 1), None)
        for point in chosen if one else []:
            count, threads = point["ranks"], point["threads"]
            base, busy = larger(one, count) if weak else one, point["busy"] / threads
            speed_up = (count if weak else 1) * one["busy"] / busy
            row = {
                "speed_up": speed_up,
                "efficiency": speed_up / (count * threads),
                "busy_model": sum(busiest(base, count, threads)),
                "model": modelled(base, count, threads, here, processors),
            }
            rows.append(point | row)
            print(
                f"| {name}{f', {SAMPLES} samples a rank' if weak else ''} | {count} x {threads}"
                f"{' *' if count * threads > processors else ''} | {busy:.3f} | {beside(row['busy_model'], busy)} | "
                f"{speed_up:.2f} | {100 * row['efficiency']:.0f} % | {point['bytes'] / 1e6:.1f} | {point['seconds']:.3f} | "
                f"{beside(row['model'], point['seconds'])} | {100 * point['communication'] / point['seconds']:.0f} % |"
            )
    print(f"\n* more threads than the {processors} processors, which they share")
    return rows


def beside(model, measured):
    """Return a modelled number with its deviation from a measured one."""
    return f"{model:.3f} ({100 * (model / measured - 1):+.0f} %)"


def project(points, options):
    """Print the projection; return it by workload and interconnect: seconds by number of ranks."""
    found = {}
    print(f"\nProjected for {options.cores} threads a rank, {PAPER_STEPS} steps:\n")
    print(
        "| workload | shards | interconnect | "
        + " | ".join(f"{count} ranks" for count in PROJECTED)
        + " | ranks that pay (>= 50 %) |"
    )
    print("|---|---|---|" + "---|" * (len(PROJECTED) + 1))
    ones = {p["workload"]: scaled(p) for p in points if p["ranks"] == p["threads"] == 1 and not p["weak"]}
    ones |= {f"{name}, {LARGER} times the samples": larger(point, LARGER) for name, point in ones.items()}
    for name, point in ones.items():
        for kind, speed in INTERCONNECTS.items():
            times = {count: modelled(point, count, options.cores, speed) for count in PROJECTED}
            efficient = [count for count, value in times.items() if times[1] / value >= 0.5 * count]
            found[f"{name}, {kind}"] = times
            cells = " | ".join(f"{value:.3g} s" for value in times.values())
            print(f"| {name} | {point['shards']} | {kind} | {cells} | {max(efficient)} |")
    return found


def scaled(point):
    """Scale a measured point to the steps of the paper: the divided part grows with them, the rest stays."""
    divided = point["divided"] * PAPER_STEPS / point["steps"]
    return {**point, "divided": divided, "busy": point["busy"] - point["divided"] + divided}


def larger(point, factor):
    """Scale a measured point to a minibatch with more samples: all parts grow with them, the sums stay."""
    grown = {key: factor * point[key] for key in ("busy", "divided", "united", "shards")}
    return {**point, **grown}


def draw(rows, projection, options):
    """Draw measured and projected speed-ups."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    colours = dict(zip(WORKLOADS, ("C0", "C1", "C2", "C3"), strict=True))
    single = [row for row in rows if row["threads"] == 1]
    for name, weak in product(WORKLOADS, (False, True)):
        chosen = [row for row in single if row["workload"] == name and row["weak"] is weak]
        if not chosen:
            continue
        counts, label = [row["ranks"] for row in chosen], f"{name}, weak" if weak else name
        axes[0].plot(
            counts,
            [row["speed_up"] for row in chosen],
            "s:" if weak else "o-",
            color=colours[name],
            label=label,
        )
        if not weak:
            times = [row["busy_model"] for row in chosen]
            axes[0].plot(counts, [chosen[0]["busy"] / time for time in times], "x--", color=colours[name])
    axes[0].set(
        xlabel="ranks of one thread", ylabel="speed-up", title="processor time measured here; crosses: model"
    )
    for axis, larger_too in zip(axes[1:], (False, True), strict=True):
        for name, kind in product(WORKLOADS, INTERCONNECTS):
            times = projection.get(f"{name}{f', {LARGER} times the samples' if larger_too else ''}, {kind}")
            style = "--" if "GbE" in kind else "-"
            if times:
                speed_ups = [times[1] / value for value in times.values()]
                axis.plot(list(times), speed_ups, f".{style}", color=colours[name], label=f"{name}, {kind}")
        axis.plot(PROJECTED, PROJECTED, "k:")
        title = (
            f"projected, {options.cores} threads a rank, {SAMPLES * (LARGER if larger_too else 1):,} samples"
        )
        axis.set(xscale="log", yscale="log", xlabel="ranks", title=title)
        axis.set_xticks(PROJECTED, [str(count) for count in PROJECTED])
    for axis in axes:
        axis.legend(fontsize=6)
    figure.savefig(options.plot, dpi=130)


if __name__ == "__main__":
    main()
