#!/usr/bin/env python
"""Measure one minibatch over ranks, and project how many ranks pay for which network on which interconnect.

    python scripts/bench_ranks.py [--ranks 1,2,4] [--threads N] [--repeats N] [--cores 8] [--json FILE] [--plot FILE.png]

Starts itself under mpirun (pip install 'dfc-numba[mpi]' mpich) for each number of ranks. Strong scaling: the same minibatch;
weak scaling: a minibatch of 128 samples a rank. The time of a minibatch is modelled as

    T(R) = serial + divided * (largest share of the shards) + communication(R)
    communication(R) = ceil(log2 R) * (2 latency + (nodes + 1) sums / bandwidth) + 2 united / bandwidth + 2 log2 R latency

with `serial` and `divided` from one rank, `sums` the bytes of one update, `united` the bytes of what belongs to single samples,
and latency and bandwidth of the interconnect: measured here between two processes, assumed for 10 GbE and InfiniBand.
"""

import argparse
import json
import subprocess
import sys
import time
from importlib.util import find_spec
from math import ceil, log2
from pathlib import Path
from statistics import median

import numpy as np

import dfc_numba as dfc
from dfc_numba.model.products import shards_of
from dfc_numba.support import ranks
from dfc_numba.support.threads import limit_threads

# name: sizes, samples, steps (of the 999 of the paper), which integrators
WORKLOADS = {
    "paper": ((784, 256, 256, 256, 10), 128, 200, ("euler", "waveform")),
    "4096 wide": ((784, 4096, 4096, 10), 128, 4, ("euler",)),
}
WEAK = "paper"
PAPER_STEPS = 999
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
    found, here = read(options.reuse) if options.reuse else measure(options)
    points = report(found, here, options)
    projection = project(found[1], here, options)
    if options.json:
        options.json.write_text(
            json.dumps({"points": points, "projection": projection, "interconnect": here}, indent=1)
        )
    if options.plot:
        draw(points, projection, options)


def measure(options):
    """(what each number of ranks has measured, latency and bandwidth here)."""
    found = {count: started(count, options) for count in (int(text) for text in options.ranks.split(","))}
    return found, next((each["interconnect"] for each in found.values() if each["interconnect"]), None)


def read(path):
    """The same, from a file that --json has written."""
    stored = json.loads(path.read_text())
    found = {}
    for row in stored["points"]:
        found.setdefault(row["ranks"], {"results": {}})["results"][row["workload"]] = row
    return found, stored["interconnect"]


def parser():
    """The command line."""
    made = argparse.ArgumentParser(
        "bench_ranks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--ranks", default="1,2", help="numbers of ranks to measure; default 1,2")
    made.add_argument("--threads", type=int, default=1, help="threads of each rank; default 1")
    made.add_argument(
        "--cores", type=int, default=8, help="threads of each rank in the projection; default 8"
    )
    made.add_argument("--repeats", type=int, default=5)
    made.add_argument("--only", help="one of: " + ", ".join(WORKLOADS))
    made.add_argument("--json", type=Path)
    made.add_argument("--plot", type=Path)
    made.add_argument(
        "--reuse", type=Path, metavar="FILE.json", help="project again from what --json has written"
    )
    made.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return made


def started(count, options):
    """What one number of ranks measures."""
    line = [
        sys.executable,
        __file__,
        "--worker",
        "--threads",
        str(options.threads),
        "--repeats",
        str(options.repeats),
    ]
    line += ["--only", options.only] if options.only else []
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
    chosen = {name: value for name, value in WORKLOADS.items() if options.only in (None, name)}
    results = {}
    with limit_threads(options.threads):
        for name, (sizes, samples, steps, integrators) in chosen.items():
            for integrator in integrators:
                if integrator == "euler" or has_waveform():
                    results[f"{name}, {integrator}"] = measured(
                        sizes, samples, steps, integrator, options.repeats
                    )
        if WEAK in chosen:
            sizes, samples, steps, _ = WORKLOADS[WEAK]
            weak = samples * ranks.size()
            results[f"{WEAK}, {samples} samples a rank"] = measured(
                sizes, weak, steps, "euler", options.repeats
            )
    return {"results": results, "interconnect": interconnect()}


def has_waveform():
    """Whether this version solves in time."""
    try:
        dfc.Controller(integrator="waveform")
    except (TypeError, ValueError):
        return False
    return True


class Stopwatch:
    """Time from the division of the shards to the exchange of their sums."""

    def __init__(self):
        self.seconds, self._own, self._complete = 0.0, ranks.own, ranks.complete

    def __enter__(self):
        ranks.own, ranks.complete = self._begin, self._end
        return self

    def __exit__(self, *_):
        ranks.own, ranks.complete = self._own, self._complete

    def _begin(self, pieces):
        self._start = time.perf_counter()
        return self._own(pieces)

    def _end(self, *arguments):
        self.seconds += time.perf_counter() - self._start
        return self._complete(*arguments)


def measured(sizes, samples, steps, integrator, repeats):
    """Medians of one minibatch: seconds in all, of the divided part, of communication (with waiting); bytes; shards."""
    rng = np.random.default_rng(0)
    net = dfc.Network.create(
        list(sizes), hidden_activation="tanh", feedback_init="weight_product", seed=0, dtype="float32"
    )
    x, labels = rng.random((samples, sizes[0]), np.float32), rng.integers(sizes[-1], size=samples)
    target = dfc.output_target(net, x, labels, loss="cross_entropy", step=NUDGE)
    keys = {"integrator": integrator} if integrator != "euler" else {}
    controller = dfc.Controller(dt=0.02, steps=steps, alpha=ALPHA, k_p=2.0, tau_v=0.2, **keys)
    rows = []
    for _ in range(repeats + 1):
        world = ranks.world()
        if world:
            world.seconds, world.bytes = 0.0, 0
            world.communicator.Barrier()
        start = time.perf_counter()
        with Stopwatch() as watch:
            dfc.forward_update(net, x, target, controller)
        total = time.perf_counter() - start
        rows.append((total, watch.seconds, world.seconds if world else 0.0, world.bytes if world else 0))
    columns = [max(ranks.gather(median(column))) for column in zip(*rows[1:], strict=True)]
    parameters = sum(w.size for w in net.weights[1:]) * net.dtype.itemsize
    united = 2 * 8 * samples * sum(sizes[1:]) + 8 * samples * sizes[-1]
    shards = len(shards_of(net, samples))
    names = ("seconds", "divided", "communication", "bytes")
    return dict(zip(names, columns, strict=True)) | {
        "sums": parameters,
        "united": united,
        "shards": shards,
        "steps": steps,
    }


def interconnect():
    """(latency, bytes/s) between two ranks, from messages of 8 bytes and 8 MB; None with one."""
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
    """Modelled seconds of the communication of one minibatch."""
    if count == 1:
        return 0.0
    rounds = ceil(log2(count))
    nodes = 1 if one["shards"] % count == 0 and log2(count) % 1 == 0 else 2
    sums = rounds * (2 * latency + (nodes + 1) * one["sums"] / bandwidth)
    return sums + 2 * one["united"] / bandwidth + 2 * rounds * latency


def share(shards, count, threads):
    """The largest share of the work that one thread has."""
    return ceil(ceil(shards / count) / threads) / shards


def modelled(one, count, threads, speed, measured_threads=1):
    """Modelled seconds of a minibatch, from what one rank has measured."""
    serial = one["seconds"] - one["divided"]
    single = one["divided"] / share(one["shards"], 1, measured_threads)
    return serial + single * share(one["shards"], count, threads) + communication(one, count, *speed)


def report(found, here, options):
    """Print what was measured beside the model; return the rows."""
    here = here or (0.0, 1.0)
    print(
        f"between two ranks here: latency {1e6 * here[0]:.1f} us, {here[1] / 1e9:.2f} GB/s; threads of a rank: {options.threads}"
    )
    print(
        "\n| workload | ranks | s a minibatch | speed-up | efficiency | communication and waiting | MB moved by a rank | model |"
    )
    print("|---|---|---|---|---|---|---|---|")
    rows = []
    for name, one in found[min(found)]["results"].items():
        for count, each in found.items():
            point, weak = each["results"][name], "a rank" in name
            speed_up = one["seconds"] / point["seconds"] * (count if weak else 1)
            base = {**point, "seconds": one["seconds"], "divided": one["divided"]} if not weak else one
            expected = modelled(base, count, options.threads, here, options.threads) if not weak else None
            rows.append({"workload": name, "ranks": count, **point, "speed_up": speed_up, "model": expected})
            text = (
                ""
                if expected is None
                else f"{expected:.3f} ({100 * (expected / point['seconds'] - 1):+.0f} %)"
            )
            print(
                f"| {name} | {count} | {point['seconds']:.3f} | {speed_up:.2f} | {100 * speed_up / count:.0f} % | "
                f"{100 * point['communication'] / point['seconds']:.0f} % | {point['bytes'] / 1e6:.1f} | {text} |"
            )
    return rows


def project(one, here, options):
    """Print the projection; return it by workload and interconnect: seconds and efficiency by number of ranks."""
    found = {}
    print(f"\nProjected for {options.cores} threads a rank, {PAPER_STEPS} steps (Euler), same minibatch:\n")
    print(
        "| workload | shards | interconnect | "
        + " | ".join(f"{count} ranks" for count in PROJECTED)
        + " | ranks that pay (>= 50 %) |"
    )
    print("|---|---|---|" + "---|" * (len(PROJECTED) + 1))
    measured_points = {name: point for name, point in one["results"].items() if "a rank" not in name}
    for name, point in list(measured_points.items()):
        measured_points[f"{name}, {LARGER} times the samples"] = larger(point, LARGER)
    for name, point in measured_points.items():
        full = point if "waveform" in name else scaled(point)
        for kind, speed in INTERCONNECTS.items():
            times = {
                count: modelled(full, count, options.cores, speed, options.threads) for count in PROJECTED
            }
            efficient = [count for count, value in times.items() if times[1] / value >= 0.5 * count]
            found[f"{name}, {kind}"] = times
            cells = " | ".join(f"{value:.3g} s" for value in times.values())
            print(f"| {name} | {full['shards']} | {kind} | {cells} | {max(efficient)} |")
    return found


def scaled(point):
    """A measured point for the steps of the paper: the divided part grows with them, the rest stays."""
    divided = point["divided"] * PAPER_STEPS / point["steps"]
    return {**point, "divided": divided, "seconds": point["seconds"] - point["divided"] + divided}


def larger(point, factor):
    """A measured point for a minibatch with more samples: all parts grow with them, the sums stay."""
    grown = {key: factor * point[key] for key in ("seconds", "divided", "united", "shards")}
    return {**point, **grown}


def draw(points, projection, options):
    """Draw measured and projected speed-ups."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name in dict.fromkeys(row["workload"] for row in points):
        chosen = [row for row in points if row["workload"] == name]
        axes[0].plot([row["ranks"] for row in chosen], [row["speed_up"] for row in chosen], "o-", label=name)
    most = max(row["ranks"] for row in points)
    axes[0].plot([1, most], [1, most], "k:", label="ideal")
    axes[0].set(xlabel="ranks", ylabel="speed-up", title=f"measured, {options.threads} thread(s) a rank")
    for name, times in projection.items():
        axes[1].plot(list(times), [times[1] / value for value in times.values()], ".-", label=name)
    axes[1].plot(PROJECTED, PROJECTED, "k:")
    axes[1].set(
        xscale="log", yscale="log", xlabel="ranks", title=f"projected, {options.cores} threads a rank"
    )
    axes[1].set_xticks(PROJECTED, [str(count) for count in PROJECTED])
    for each in axes:
        each.legend(fontsize=7)
    figure.savefig(options.plot, dpi=130)


if __name__ == "__main__":
    main()
