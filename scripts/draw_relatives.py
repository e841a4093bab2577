#!/usr/bin/env python
"""Draw the runs of scripts/compare_relatives.sh and print their table, one row for each method, with the angles of its update.

python scripts/draw_relatives.py FOLDER OUT.png
"""

import argparse
import csv
from collections import defaultdict
from pathlib import Path

FAMILIES = {
    "backpropagation, DFA, DFC": ("mnist-bp", "mnist-dfa", "mnist-dfc"),
    "target propagation": ("tp-",),
    "equilibrium propagation": ("ep-",),
    "least control": ("lcp-",),
    "GRAPES": ("grapes-",),
}
ANGLES = {"BP": "angle_bp", "Gauss-Newton": "angle_gn", "minimum norm": "angle_mn"}
TICKS = 2, 3, 5, 10, 20, 40  # test errors in percent
NAMES = {
    "training.method=dfc-ss-newton": "Newton",
    "optimizer.modulation=grapes": "GRAPES",
    "method.form=none": "without GRAPES",
    "data.name=fashion_mnist": "",
    "optimizer.name=sgd": "SGD",
    "optimizer.momentum=0.0": "",
    "optimizer.learning_rate=10.0": "rate 10",
    "optimizer.learning_rate=18.0": "rate 18",
}


def main(arguments=None):
    """Write the figure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args(arguments)
    runs = {name: read(options.folder / name / "comparison.csv") for name in ("mnist", "fashion")}
    draw(runs["mnist"], options.out)
    print(
        f"| method | test error (%) | train loss | angle to {', '.join(ANGLES)} | Fashion-MNIST: test error (%) |"
    )
    print("|---|---|---|---|---|")
    fashion = {short(preset): rows for preset, rows in runs["fashion"].items()}
    for preset, rows in runs["mnist"].items():
        other = fashion.get(short(preset))
        print(
            f"| {short(preset)} | {error(rows[-1]):.1f} | {float(rows[-1]['train_loss']):.3g} "
            f"| {angles(options.folder / 'angles' / f'{preset}-seed42.csv')} "
            f"| {f'{error(other[-1]):.1f}' if other else ''} |"
        )


def angles(path):
    """Return the angles of the whole update in degrees, with the last weights, as text; empty where they were not measured."""
    if not path.exists():
        return ""
    with open(path, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["weights"] == "last" and not row["layer"]]
    measured = {row["measurement"]: float(row["value"]) for row in rows}
    return ", ".join(f"{measured[name]:.0f}" for name in ANGLES.values())


def read(path):
    """Return the rows of each preset; none where there is no such file."""
    found = defaultdict(list)
    if path.exists():
        with open(path, newline="") as file:
            for row in csv.DictReader(file):
                found[row["preset"]].append(row)
    return found


def error(row):
    """Return the test error in percent."""
    return 100 * (1 - float(row["test_accuracy"]))


def short(preset):
    """Return the name of a run in table and figure."""
    name, *changes = preset.split("+")
    return ", ".join(filter(None, [name, *(NAMES.get(change, change) for change in changes)]))


def draw(runs, out):
    """Draw a panel of test errors over epochs for each family."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(FAMILIES), figsize=(17, 4.2), sharey=True, layout="constrained")
    for panel, (family, beginnings) in zip(panels, FAMILIES.items(), strict=True):
        for preset, rows in runs.items():
            if preset.startswith(beginnings):
                panel.plot(range(1, len(rows) + 1), list(map(error, rows)), marker=".", label=short(preset))
        panel.plot(
            range(1, len(runs["mnist-bp"]) + 1),
            list(map(error, runs["mnist-bp"])),
            ":",
            color="0.5",
            label="mnist-bp",
        )
        panel.set(title=family, xlabel="epoch", yscale="log")
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.set_yticks(TICKS, list(map(str, TICKS)))
        panel.minorticks_off()
        panel.grid(alpha=0.3, which="major")
        panel.legend(fontsize="x-small", loc="upper right")
    panels[0].set_ylabel("test error (%)")
    figure.savefig(out, dpi=100)


if __name__ == "__main__":
    main()
