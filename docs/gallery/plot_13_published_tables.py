"""
The published tables
====================

``scripts/reproduce_table.sh`` trains the presets of the papers' tables with the published settings, and leaves a table
of its values beside the published ones. This picture is drawn from the rows that are measured so far.
"""

import csv
from pathlib import Path

import matplotlib.pyplot as plt

root = next(
    folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "results" / "table.csv").exists()
)
with open(root / "results" / "table.csv", newline="") as file:
    rows = [row for row in csv.DictReader(file) if row["mean"]]

figure, axes = plt.subplots(figsize=(6, 0.5 + 0.42 * len(rows)), layout="constrained")
for place, row in enumerate(rows):
    published, spread = float(row["published_mean"]), float(row["published_std"] or 0)
    axes.errorbar(
        1,
        place,
        xerr=spread / published,
        color="0.6",
        fmt="s",
        capsize=4,
        label="published" if place == 0 else None,
    )
    axes.plot(float(row["mean"]) / published, place, "C0o", label="measured here" if place == 0 else None)
    axes.annotate(
        row["verdict"], (1.02, place), xycoords=("axes fraction", "data"), verticalalignment="center"
    )
axes.set(
    yticks=range(len(rows)), yticklabels=[f"{row['task']}, {row['method']}" for row in rows], xscale="symlog"
)
axes.set(xlabel="over the published value", xlim=(0, None))
axes.invert_yaxis()
axes.legend()
