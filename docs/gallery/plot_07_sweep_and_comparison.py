"""
A sweep, and a comparison
=========================

Many runs, with one command each: ``dfc sweep`` takes a grid from a file, ``dfc compare`` several methods with several
seeds. Both go on where they were interrupted, and the same sweep runs on SLURM or Dask.
"""

import csv
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

folder = Path(tempfile.mkdtemp())


def shell(line):
    """Run a ``dfc`` command, and return what it prints."""
    words = [sys.executable, "-m", "dfc_numba", *line.split()[1:]]
    return subprocess.run(words, cwd=folder, check=True, capture_output=True, text=True).stdout


(folder / "rates.toml").write_text("""
[sweep]
presets = ["digits"]
seeds = [0, 1]
set."optimizer.learning_rate" = [0.001, 0.005, 0.02]
set."training.method" = ["dfc-ssa"]
set."training.epochs" = [2]
set."network.hidden" = [[32]]
set."feedback.train" = [false]
set."network.feedback_init" = ["jacobian_transpose"]
set."data.options.train_size" = [400]
""")
print(shell("dfc sweep rates.toml --out rates"))

# %%
# ``runs.csv`` has a row per run, with its results and all its settings.

with open(folder / "rates" / "runs.csv", newline="") as file:
    rows = list(csv.DictReader(file))
figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
axes.semilogx(
    [float(row["optimizer.learning_rate"]) for row in rows],
    [100 * float(row["last_test_accuracy"]) for row in rows],
    "o",
)
axes.set(xlabel="learning rate", ylabel="test accuracy (%)", title="sweep: each point is a run")

# %%
# A comparison: means and standard deviations over the seeds. ``dfc report methods`` makes a page of it that can be
# sent.

small = "--set network.hidden=[32] --set data.options.train_size=400"
print(
    shell(
        f"dfc compare digits+training.method=bp digits+training.method=dfa --seeds 2 --epochs 6 --out methods {small}"
    )
)
with open(folder / "methods" / "comparison.csv", newline="") as file:
    rows = list(csv.DictReader(file))
figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
for name, colour in zip(sorted({row["preset"] for row in rows}), ("C0", "C1"), strict=True):
    for seed in sorted({row["seed"] for row in rows}):
        own = [row for row in rows if row["preset"] == name and row["seed"] == seed]
        label = name.partition("=")[2] if seed == "0" else None
        axes.plot(
            [int(row["epoch"]) for row in own],
            [100 * float(row["test_accuracy"]) for row in own],
            colour,
            label=label,
        )
axes.set(xlabel="epoch", ylabel="test accuracy (%)", title="comparison: a line per seed")
axes.legend()
