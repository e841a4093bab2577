"""The published tables as a sweep, and what its finished runs give as tables and a figure; see reproduce_table.sh.

    reproduce_table.py --folder FOLDER --results FOLDER [--seeds N] [--only TASK,METHOD] [--epochs N] [--on ENGINE] [--collect]

A cell counts the test error at the epoch with the best validation result (accuracy, or for the autoencoder the loss), the
column `mnist-train` the train loss of the last epoch. It `agrees` where its mean is within two combined standard deviations
of the published one; for a single seed our deviation is taken to be the published one. A cell without a published number
has no verdict.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
from pathlib import Path

# task -> method -> (preset, published mean, published standard deviation or None)
TABLE = {
    "mnist": {
        "bp": ("mnist-bp", 2.08, 0.15),
        "dfc": ("mnist-dfc", 2.25, 0.094),
        "dfc-fixed": ("mnist-dfc-fixed", 2.47, 0.12),
        "dfa": ("mnist-dfa", 2.69, 0.11),
    },
    "fashion-mnist": {
        "bp": ("fashion-mnist-bp", 10.60, 0.34),
        "dfc": ("fashion-mnist-dfc", 11.17, 0.27),
        "dfc-fixed": ("fashion-mnist-dfc-fixed", 11.62, 0.30),
        "dfa": ("fashion-mnist-dfa", 11.38, 0.25),
    },
    "mnist-autoencoder": {
        "bp": ("mnist-autoencoder-bp", 9.42e-2, 0.09e-2),
        "dfc": ("mnist-autoencoder-dfc", 11.28e-2, 0.18e-2),
        "dfc-fixed": ("mnist-autoencoder-dfc-fixed", 33.37e-2, 0.60e-2),
        "dfa": ("mnist-autoencoder-dfa", 29.95e-2, 0.36e-2),
    },
    "mnist-train": {
        "bp": ("mnist-train-bp", 1.53e-7, 0.19e-7),
        "dfc": ("mnist-train-dfc", 7.61e-8, 0.65e-8),
        "dfc-fixed": ("mnist-train-dfc-fixed", 1.30e-6, 0.15e-6),
        "dfa": ("mnist-train-dfa", 7.09e-7, 1.11e-7),
    },
    "strong-mnist": {
        "bp": ("strong-mnist-bp", 1.83, None),
        "dfc": ("strong-mnist-dfc", 2.20, None),
        "single-phase": ("strong-mnist-single-phase", 2.28, None),
        "two-phase": ("strong-mnist-two-phase", 2.25, None),
    },
    "strong-fashion-mnist": {
        "bp": ("strong-fashion-mnist-bp", 10.60, None),
        "dfc": ("strong-fashion-mnist-dfc", 11.30, None),
        "single-phase": ("strong-fashion-mnist-single-phase", 12.74, None),
        "two-phase": ("strong-fashion-mnist-two-phase", 12.78, None),
    },
    # the relatives: where a number is given, it is in the log of the code that the preset follows, without a deviation
    "relatives-mnist": {
        "tp-bp": ("tp-mnist-bp", None, None),
        "ddtp-linear": ("tp-mnist-ddtp-linear", None, None),
        "ddtp-rhl": ("tp-mnist-ddtp-rhl", None, None),
        "dtpdrl": ("tp-mnist-dtpdrl", None, None),
        "dtp": ("tp-mnist-dtp", None, None),
        "ep": ("ep-mnist-prototypical", None, None),
        "ep-vector-field": ("ep-mnist-vector-field", None, None),
        "ep-hopfield": ("ep-mnist-hopfield", 2.82, None),
        "ep-gaussian": ("ep-mnist-gaussian", 1.68, None),
        "lcp-bp": ("lcp-mnist-bp", None, None),
        "lcp-di": ("lcp-mnist-di", None, None),
        "lcp-kp": ("lcp-mnist-kp", None, None),
        "lcp-lf": ("lcp-mnist-lf", None, None),
        "lcp-rnn-bp": ("lcp-mnist-rnn-bp", None, None),
        "lcp-rnn-di": ("lcp-mnist-rnn-di", None, None),
        "lcp-rnn-kp": ("lcp-mnist-rnn-kp", None, None),
        "lcp-rnn-lf": ("lcp-mnist-rnn-lf", None, None),
        "grapes-bp": ("grapes-mnist-bp", None, None),
        "grapes-fa": ("grapes-mnist-fa", None, None),
        "grapes-dfa": ("grapes-mnist-dfa", None, None),
    },
}
# standard deviations of tables without them: those of the table of the same task that has some
DEVIATIONS = {"strong-mnist": 0.12, "strong-fashion-mnist": 0.30, "relatives-mnist": 0.12}
COLUMNS = ("task", "method", "seeds", "epochs", "mean", "std", "published_mean", "published_std", "verdict")
FIRST_SEED = 42
# which runs come first: what is cheap, so that a table that is not complete says as much as possible
CHEAP = ("bp", "dfa")
LATER = ("relatives-mnist",)
# cells whose forward phase is simulated without noise, and has few enough outputs to be solved in time
WAVEFORM = {
    (task, method)
    for task in TABLE
    if task not in ("mnist-autoencoder", *LATER)
    for method in ("dfc", "dfc-fixed", "two-phase")
}


def main():
    options = read_options()
    cells = [
        (task, method)
        for task, methods in TABLE.items()
        for method in methods
        if options.only is None or options.only in (f"{task},{method}", f"{task},", f",{method}")
    ]
    if not cells:
        known = ", ".join(f"{task},{method}" for task in TABLE for method in TABLE[task])
        sys.exit(
            f"--only {options.only}: no such cell; known are {known} (TASK, and ,METHOD stand for a row or a column)"
        )
    status = 0
    if not options.collect:
        status = run_sweep(options, cells)
    everything = [(task, method) for task, methods in TABLE.items() for method in methods]
    found = {cell: list(finished_runs(options, cell)) for cell in everything}
    results = [run for cell in cells for run in found[cell]]
    keep(options.results, results)
    write_tables(options, cells, found)
    print_remaining(options, cells, results)
    sys.exit(status)


def read_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where the runs are")
    parser.add_argument("--results", type=Path, required=True, help="where the tables go")
    parser.add_argument("--seeds", type=int, default=1, help="seeds of each cell; default 1")
    parser.add_argument(
        "--only", metavar="TASK,METHOD", help="one cell; `TASK,` is a row of cells, `,METHOD` a column"
    )
    parser.add_argument("--epochs", type=int, help="instead of the published number")
    parser.add_argument(
        "--on", default="local", metavar="ENGINE", help="engine of `dfc sweep`; default local"
    )
    parser.add_argument("--collect", action="store_true", help="start nothing")
    return parser.parse_args()


def seeds(options):
    return range(FIRST_SEED, FIRST_SEED + options.seeds)


def settings(options, cell):
    """Return what a run sets beyond its preset."""
    task, _ = cell
    found = {"training.dtype": "float64" if task in ("mnist-train", *LATER) else "float32"}
    if cell in WAVEFORM:
        found["controller.integrator"] = "waveform"
    if options.epochs is not None:
        found["training.epochs"] = options.epochs
    return found


def run_sweep(options, cells):
    """Do what is not finished, cheap cells first; returns the exit code of `dfc sweep`."""
    program = Path(sys.executable).parent / "dfc"
    listed = subprocess.run(
        [str(program), "presets"], check=True, capture_output=True, text=True
    ).stdout.split()
    unknown = [cell for cell in cells if TABLE[cell[0]][cell[1]][0] not in listed]
    if unknown:
        print(f"left out, since the installation has no such presets: {', '.join(map(','.join, unknown))}")
    cells = [cell for cell in cells if cell not in unknown]
    ordered = sorted(cells, key=lambda cell: (cell[0] in LATER, cell[1] not in CHEAP))
    runs = [run for cell in ordered for run in finished_runs(options, cell)]
    elsewhere, lines = {(run["cell"], run["seed"]) for run in runs if not run["run"]}, []
    for seed in seeds(options):
        for cell in ordered:
            if (cell, seed) in elsewhere:
                continue
            lines += ["", "[[sweep.run]]", f'preset = "{TABLE[cell[0]][cell[1]][0]}"', f"seed = {seed}"]
            lines += [f'set."{key}" = {json.dumps(value)}' for key, value in settings(options, cell).items()]
    if not lines:
        return 0
    file = options.folder / f"sweep{suffix(options)}.toml"
    file.write_text("\n".join(lines).lstrip() + "\n")
    command = [str(program), "sweep", str(file), "--out", str(runs_folder(options)), "--on", options.on]
    return subprocess.run(command, check=False).returncode


def suffix(options):
    return "" if options.epochs is None else f"-{options.epochs}-epochs"


def runs_folder(options):
    return options.folder / f"runs{suffix(options)}"


def finished_runs(options, cell):
    """Yield the finished runs of a cell, those that are kept from other machines too: metrics, value at the epoch that counts."""
    preset, found = TABLE[cell[0]][cell[1]][0], {}
    for path in runs_folder(options).glob("*/run.json"):
        run = json.loads(path.read_text())
        if run.get("status") == "done":
            found[path.parent.name] = path.parent, run
    for path in options.results.glob("*/environment.json") if options.epochs is None else ():
        found.setdefault(path.parent.name, (path.parent, {}))
    for _, (path, run) in sorted(found.items()):
        if run_preset(path, run) != preset:
            continue
        with open(path / "metrics.csv", newline="") as file:
            metrics = [{key: number(value) for key, value in row.items()} for row in csv.DictReader(file)]
        yield {
            "cell": cell, "path": path, "seed": read_config(path / "config.toml")["training"]["seed"], "metrics": metrics,
            "value": counted(cell[0], metrics), "last": value_at(cell[0], metrics[-1]), "run": run,
        }  # fmt: skip


def run_preset(path, run):
    """Return the preset that a run of the sweep was made from: its folder's name begins with it."""
    names = sorted(
        (name for methods in TABLE.values() for name, *_ in methods.values()), key=len, reverse=True
    )
    return next((name for name in names if path.name.startswith(name)), run.get("preset"))


def read_config(path):
    try:
        import tomllib
    except ImportError:
        import tomli as tomllib
    return tomllib.loads(path.read_text())


def number(text):
    try:
        return float(text)
    except ValueError:
        return float("nan")


def value_at(task, row):
    """Return the published measure of an epoch: error in percent, or loss."""
    if task == "mnist-train":
        return row["train_loss"]
    return row["test_loss"] if task == "mnist-autoencoder" else 100 * (1 - row["test_accuracy"])


def counted(task, metrics):
    """Return the measure at the epoch that counts."""
    if task == "mnist-train":
        return value_at(task, metrics[-1])
    if task == "mnist-autoencoder":
        return value_at(task, min(metrics, key=lambda row: row["val_loss"]))
    return value_at(task, max(metrics, key=lambda row: row["val_accuracy"]))


def summary(cell, runs):
    """Return a row of the table; None without runs."""
    if not runs:
        return None
    _, published, deviation = TABLE[cell[0]][cell[1]]
    values = [run["value"] for run in runs]
    mean, std = statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None
    ours = std if std is not None else (deviation or 0.0)
    verdict = ""
    if published is not None:
        theirs = deviation if deviation is not None else DEVIATIONS[cell[0]]
        agrees = abs(mean - published) <= 2 * ((ours or theirs) ** 2 + theirs**2) ** 0.5
        verdict = "agrees" if agrees else "off"
    return {
        "task": cell[0], "method": cell[1], "seeds": len(runs), "epochs": int(max(run["metrics"][-1]["epoch"] for run in runs)),
        "mean": mean, "std": std, "published_mean": published, "published_std": deviation,
        "verdict": verdict, "last": statistics.mean(run["last"] for run in runs),
        "hours": sum(sum(row["seconds"] for row in run["metrics"]) for run in runs) / len(runs) / 3600,
    }  # fmt: skip


def keep(results, runs):
    """Copy what the repository keeps of each run of this machine."""
    for run in (run for run in runs if run["run"]):
        folder = results / run["path"].name
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("config.toml", "metrics.csv"):
            (folder / name).write_bytes((run["path"] / name).read_bytes())
        (folder / "environment.json").write_text(json.dumps(reduced_environment(run), indent=1) + "\n")


def reduced_environment(run):
    """Return versions, processor, threads, seconds and commit; no names of hosts or folders."""
    environment, commit = run["run"]["environment"], run["path"].parents[1] / "commit.txt"
    machine = environment["machine"]
    return {
        "dfc_numba": environment["dfc_numba"],
        "commit": commit.read_text().strip() if commit.exists() else "",
        "python": environment["python"],
        "packages": environment["packages"],
        "processor": machine["processor"],
        "processors": machine["processors"],
        "threads": environment["threads"]["available"],
        "seconds": round(sum(row["seconds"] for row in run["metrics"]), 1),
    }


def write_tables(options, cells, found):
    """Print the rows of some cells; write table.csv, table.md and the figure of all finished runs, which `found` has by cell."""
    summaries = {cell: summary(cell, runs) for cell, runs in found.items()}
    rows, name = [row for row in summaries.values() if row], f"table{suffix(options)}"
    for row in filter(None, map(summaries.get, cells)):
        std = "" if row["std"] is None else f" ± {row['std']:.2g}"
        print(
            f"{row['task']:20} {row['method']:15} {row['mean']:.4g}{std} (published {_short(row['published_mean']) or '-'}), "
            f"{row['seeds']} seed(s), {row['epochs']} epochs, {row['hours']:.2f} h: {row['verdict'] or 'no published number'}"
        )
    if not rows:
        return
    options.results.mkdir(parents=True, exist_ok=True)
    with open(options.results / f"{name}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: _short(value) for key, value in row.items()})
    lines = [
        "| task | method | ours | at the last epoch | published | seeds | epochs | hours per run | verdict |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        std = "" if row["std"] is None else f" ± {row['std']:.2g}"
        theirs = "" if row["published_std"] is None else f" ± {row['published_std']:.2g}"
        lines.append(
            f"| {row['task']} | {row['method']} | {row['mean']:.4g}{std} | {row['last']:.4g} | {_short(row['published_mean'])}"
            f"{theirs} "
            f"| {row['seeds']} | {row['epochs']} | {row['hours']:.2f} | {row['verdict']} |"
        )
    (options.results / f"{name}.md").write_text("\n".join(lines) + "\n")
    draw(options.results, f"curves{suffix(options)}.png")


def _short(value):
    """Return a number in few digits, "" for None."""
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else value


def draw(results, name):
    """Draw the measure over epochs of all runs that are kept, a panel for each task, means with bands over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    rows = -(-len(TABLE) // 3)
    figure, panels = plt.subplots(rows, 3, figsize=(12, 3.5 * rows), layout="constrained")
    for panel in panels.flat[len(TABLE) :]:
        panel.remove()
    for panel, (task, methods) in zip(panels.flat, TABLE.items(), strict=False):
        for method, (preset, published, _) in methods.items():
            curves = []
            for path in sorted(results.glob(f"{preset}*/metrics.csv")):
                if run_preset(path.parent, {}) != preset:
                    continue
                with open(path, newline="") as file:
                    rows = [
                        {key: number(value) for key, value in row.items()} for row in csv.DictReader(file)
                    ]
                curves.append([value_at(task, row) for row in rows])
            if not curves:
                continue
            length = min(map(len, curves))
            values = np.array([curve[:length] for curve in curves])
            epochs = np.arange(1, length + 1)
            [line] = panel.plot(epochs, values.mean(axis=0), label=f"{method} ({len(curves)})")
            panel.fill_between(
                epochs, values.min(axis=0), values.max(axis=0), color=line.get_color(), alpha=0.2
            )
            if published is not None:
                panel.axhline(published, color=line.get_color(), ls=":", lw=1)
        panel.set(title=task, xlabel="epoch", yscale="log")
        panel.set_ylabel(
            "train loss" if task == "mnist-train" else "test loss" if "auto" in task else "test error (%)"
        )
        if panel.lines:
            panel.legend(title="method (seeds); dotted: published", fontsize=8, title_fontsize=8)
    figure.savefig(results / name, dpi=110)


def print_remaining(options, cells, results):
    """Print how many runs are left, and how long they take where their cell was measured."""
    done = {(run["cell"], run["seed"]) for run in results}
    left = [(cell, seed) for cell in cells for seed in seeds(options) if (cell, seed) not in done]
    if not left:
        print("nothing is left to do")
        return
    hours, unknown = 0.0, 0
    for cell, _ in left:
        known = [
            sum(row["seconds"] for row in run["metrics"]) / 3600 for run in results if run["cell"] == cell
        ]
        hours, unknown = hours + (statistics.mean(known) if known else 0.0), unknown + (not known)
    text = f", and {unknown} of cells that were not measured yet" if unknown else ""
    print(
        f"{len(left)} runs are left: {hours:.1f} hours of those whose cell was measured{text}; start again to continue"
    )


if __name__ == "__main__":
    main()
