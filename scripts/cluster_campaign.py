"""A sweep of 24 runs on a one-node SLURM, disturbed: three preemptions and a killed node; compared with an undisturbed one.

    python scripts/cluster_campaign.py [FOLDER]

Starts a SLURM of virtual nodes on this machine (root; apt-get install -y --no-install-recommends slurm-wlm munge), prints what
was done and found, and exits with 1 unless runs were really interrupted and killed, and both tables of all runs, runs.csv, have
the same bytes. Runs have as many epochs as take a while on this machine. Takes some minutes.
"""

import csv
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))
import slurm_cluster  # noqa: E402  (the SLURM of the tests)

SWEEP = """
[sweep]
presets = ["digits"]
seeds = [0, 1, 2, 3, 4, 5]
set."training.method" = ["bp", "dfc-ss-newton"]
set."optimizer.learning_rate" = [0.002, 0.005]
set."training.epochs" = {epochs}
set."network.hidden" = [[16, 12]]
set."data.options.train_size" = 400
[slurm]
time = "00:30:00"
at_once = 4
"""
PREEMPTIONS, RUNS = 3, 24
SECONDS, EPOCHS = (
    1.0,
    (40, 2000),
)  # that a run computes at least, beside its checkpoints; bounds of its epochs
DEAD_SECONDS = 20  # longer than SLURM waits for a node


def dfc(*arguments, cwd, environment=None):
    """Run `dfc`; return what it says on standard output."""
    line = [sys.executable, "-m", "dfc_numba", *map(str, arguments)]
    done = subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(
            f"dfc {' '.join(map(str, arguments))} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        )
    return done.stdout


def record_of(path):
    """Return the content of a run.json; {} while it is being created."""
    try:
        return json.loads(path.read_text())
    except ValueError:
        return {}


def records(folder):
    """Return the run.json of each run that has begun."""
    return [record for path in sorted(folder.glob("digits*/run.json")) if (record := record_of(path))]


def training(folder):
    """Count the runs that have complete epochs and are under way."""
    return sum(
        record_of(path).get("status") == "running"
        and len((path.parent / "metrics.csv").read_text().splitlines()) > 3
        for path in folder.glob("digits*/run.json")
    )


def done(folder):
    """Count the runs that are done."""
    return sum(record["status"] == "done" for record in records(folder))


def epochs_of_a_run(folder):
    """Return how many epochs make a run long enough to be disturbed on this machine, from a short trial."""
    keys = (
        "training.method=bp",
        "network.hidden=[16,12]",
        "data.options.train_size=400",
        "training.epochs=20",
    )
    settings = [f"--set={key}" for key in keys]
    dfc("train", "digits", *settings, "--threads", 1, "--out", folder / "trial", cwd=folder)
    with open(folder / "trial" / "metrics.csv", newline="", encoding="utf-8") as file:
        each = median(float(row["seconds"]) for row in csv.DictReader(file))
    return min(max(EPOCHS[0], round(SECONDS / each)), EPOCHS[1])


def disturbed(folder, file):
    """Do the sweep on SLURM, and disturb it; return what was done, as lines."""
    with slurm_cluster.Cluster(nodes=2, cpus=2) as cluster:
        command = ["sweep", file, "--out", folder, "--on", "slurm"]
        submit = partial(dfc, *command, cwd=folder.parent, environment=cluster.environment)
        print(submit())
        lines = []
        for number in range(1, PREEMPTIONS + 1):
            cluster.until(lambda: training(folder) >= 2, 300)
            hit = training(folder)
            urgent = cluster.run("sbatch", "--parsable", "-p", "urgent", "-N", "2", "--exclusive", "-o", "/dev/null",
                                 "--wrap", "sleep 2").strip()  # fmt: skip
            cluster.until(lambda job=urgent: cluster.jobs().get(job) == "COMPLETED", 120)
            lines.append(f"preemption {number}: an urgent job took both nodes from {hit} runs under way")
        cluster.until(lambda: training(folder) >= 2, 300)
        node = next(line for line in cluster.run("squeue", "-h", "-r", "-t", "R", "-o", "%N").split())
        cluster.kill_node(node)
        lines.append(f"node {node} killed with all its processes, and started again {DEAD_SECONDS} s later")
        time.sleep(DEAD_SECONDS)
        cluster.start_node(node)
        cluster.until(lambda: done(folder) == RUNS or not cluster.run("squeue", "-h").strip(), 900)
        if done(folder) < RUNS:
            lines.append(f"SLURM gave up {RUNS - done(folder)} runs; the sweep was started again")
            submit()
            cluster.until(lambda: done(folder) == RUNS, 900)
        print(dfc("sweep", "status", folder, cwd=folder.parent, environment=cluster.environment))
    return lines


def main(folder):
    """Do both sweeps and compare."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "campaign.toml"
    file.write_text(SWEEP.format(epochs=epochs_of_a_run(folder)))
    start = time.monotonic()
    lines = disturbed(folder / "slurm", file)
    middle = time.monotonic()
    print(dfc("sweep", file, "--out", folder / "local", cwd=folder))
    tables = []
    for name in ("slurm", "local"):
        dfc("compare", *sorted((folder / name).glob("*")), cwd=folder)
        tables.append((folder / name / "runs.csv").read_bytes())
    print("\n".join(lines))
    sessions = Counter(
        session["status"] for record in records(folder / "slurm") for session in record["earlier_sessions"]
    )
    print(f"sessions that ended early: {dict(sessions)}; runs: {len(records(folder / 'slurm'))}")
    print(
        f"seconds: {middle - start:.0f} on SLURM, disturbed; {time.monotonic() - middle:.0f} on this machine"
    )
    print(f"runs.csv: {len(tables[0])} bytes; equal byte for byte: {tables[0] == tables[1]}")
    sys.exit(tables[0] != tables[1] or sessions["interrupted"] < PREEMPTIONS or not sessions["killed"])


if __name__ == "__main__":
    if reason := slurm_cluster.missing():
        sys.exit(reason)
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="dfc-campaign-"))
