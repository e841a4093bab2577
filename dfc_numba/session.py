"""Runs from Python: load a configuration, train as `dfc train` does, keep the results at hand."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from dfc_numba.analysis.monitor import Monitor
from dfc_numba.configuration import config_file
from dfc_numba.configuration.config import Config
from dfc_numba.data.dataset import DataSet
from dfc_numba.display.progress import NoDisplay, choose_display
from dfc_numba.errors import ConfigurationError
from dfc_numba.learning import methods
from dfc_numba.learning.evaluation import Evaluation, evaluate
from dfc_numba.learning.observers import check_observers, configured
from dfc_numba.learning.phases import logs
from dfc_numba.learning.training import Outcome, Trainer
from dfc_numba.model.network import Network
from dfc_numba.runs import comparison, summary
from dfc_numba.runs.experiment import Experiment, create_network, load_data, suited_data
from dfc_numba.runs.run_directory import CONFIG_NAME
from dfc_numba.support import ranks
from dfc_numba.support.array_types import Array, PathLike
from dfc_numba.support.bars import is_watched
from dfc_numba.support.ranges import Count
from dfc_numba.support.shapes import html_table
from dfc_numba.support.validation import choice, whole_number

DEFAULT_PRESET = "digits"
SPLITS = ("test", "validation", "train")


@dataclass(frozen=True, repr=False, eq=False)
class TrainingResult:
    """The result of a training: `network.weights[i]` is (n_i, n_{i-1}), one dict of `metrics` per epoch.

    Attributes:
        network, best_network: the last weights, and those of the best epoch.
        metrics: list of one dict per epoch with the columns of metrics.csv, accuracies as fractions.
        outcome: how it ended: `.status` "done", "diverged" or "interrupted", `.message`, `.epochs`, `.best_epoch`.
        config, dataset: what was trained on.
        directory: path of the run directory, None where nothing was written.
        own: the method's own arrays by name, beside the last weights; empty without.
    """

    network: Network
    best_network: Network
    metrics: list[dict[str, Any]]
    outcome: Outcome
    config: Config
    dataset: DataSet
    directory: Path | None = None
    own: dict[str, Array] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """The ending: "done", "diverged" or "interrupted"."""
        return self.outcome.status

    def evaluate(
        self,
        split: Literal["test", "validation", "train"] = "test",
        weights: Literal["last", "best"] = "last",
    ) -> Evaluation:
        """Return the `Evaluation` on a part of the data: "test", "validation" or "train"; with weights "last" or "best".

        Outputs are those of the method, such as the free equilibrium of equilibrium propagation.
        """
        choice("split", split, SPLITS)
        last = choice("weights", weights, ("last", "best")) == "last"
        network, own = (self.network, self.own) if last else (self.best_network, None)
        part = getattr(self.dataset, split)
        if part is None:
            raise ValueError(f"{self.dataset.name} has no {split} set")
        classified = self.dataset.task == "classification"
        return evaluate(
            network, part.x, part.y, loss=self.config.target.loss, classes=self.dataset.classes or None,
            class_value=self.config.target.class_value if classified else 1.0,
            predict=methods.find(self.config.training.method).predictor(network, self.config, own),
        )  # fmt: skip

    def __repr__(self) -> str:
        last = {key: round(value, 4) for key, value in (self.metrics[-1] if self.metrics else {}).items()}
        shown = ", ".join(
            f"{key}={value}" for key, value in last.items() if value == value and key != "seconds"
        )
        return f"TrainingResult(status={self.status!r}{', ' if shown else ''}{shown})"

    def _repr_html_(self):
        names = list(dict.fromkeys(name for row in self.metrics for name in row))
        title = f"{self.status}: {self.outcome.message}; the best epoch is {self.outcome.best_epoch}"
        return html_table(title, names, [[row.get(name) for name in names] for row in self.metrics])


@dataclass(frozen=True, repr=False, eq=False)
class Comparison:
    """The result of `dfc.compare`.

    Attributes:
        directory: the folder, with comparison.csv, summary.csv, summary.md and a run directory per run.
        runs: list of how each run ended: `.run` (`.source.name`, `.seed`, `.directory`), `.status`, `.message`, `.rows` (a dict
            per epoch with the columns of metrics.csv).
        summary: list of one dict per source: runs, done, epochs, and mean and standard deviation of each quantity, None where
            there is none.
    """

    directory: Path
    runs: list
    summary: list

    def __repr__(self):
        done = sum(run.status == "done" for run in self.runs)
        names = ", ".join(row["preset"] for row in self.summary)
        return f"Comparison({names}; {done} of {len(self.runs)} runs done; {str(self.directory)!r})"

    def _repr_html_(self):
        names = [name for name in self.summary[0] if any(row[name] not in (None, 0) for row in self.summary)]
        return html_table(repr(self), names, [[row[name] for name in names] for row in self.summary])


def compare(
    sources: Sequence[str],
    *,
    seeds: int = 1,
    changes: Mapping[str, Any] | None = None,
    out: PathLike | None = None,
    threads: int | None = None,
    progress: bool | None = None,
) -> Comparison:
    """Train several methods with several seeds each, as `dfc compare` does, and summarise them.

    Args:
        sources: list of names of presets or paths of TOML files, each with changes of its own where wanted:
            "digits+training.method=bp".
        seeds: runs of each, with successive seeds.
        changes: dict such as {"training.epochs": 2} for all of them.
        out: the folder; None for one in runs/ that is the same for the same arguments. What is done there already is kept.
        threads: number of threads; None for all available.
        progress: whether to show a bar and the results of each epoch; None: on a terminal and in a notebook.

    Returns:
        A `Comparison`; `dfc.plot_comparison` draws it.

    Raises:
        ValueError, TypeError, OSError: for a source, setting or folder that cannot be used.
    """
    if isinstance(sources, str) or not all(isinstance(source, str) for source in sources):
        raise TypeError(
            f"sources = {sources!r}: must be a list of texts, such as ['digits', 'digits+training.method=bp']"
        )
    whole_number("seeds", seeds, Count)
    plan = comparison.plan(sources, config_file.as_texts(changes or {}), seeds=seeds, out=out)
    comparison.prepare(plan, threads)
    ended = list(
        comparison.run(plan, display=partial(_display_of_run, progress), threads=threads, command=sys.argv)
    )
    unfinished = [run for run in ended if run.status not in ("done", "interrupted")]
    if unfinished:
        warnings.warn(
            f"{len(unfinished)} of {len(plan.runs)} runs are not done: {unfinished[0].run}: {unfinished[0].message}",
            RuntimeWarning, stacklevel=2,
        )  # fmt: skip
    return Comparison(plan.directory, ended, summary.records(summary.summarize(plan, ended)))


def run_sweep(
    path: PathLike,
    out: PathLike | None = None,
    *,
    at_once: int | None = None,
    threads: int = 1,
    retry_failed: bool = False,
) -> Comparison:
    """Do the runs of a sweep file on this machine, as `dfc sweep` does, with its lines and bars; the same call resumes.

    Args:
        path: of the sweep file. out: folder of the sweep; None for sweeps/NAME.
        at_once: runs at a time; None for as many as processors and memory allow. threads: of each run.
        retry_failed: whether failed runs are started again, too.

    Returns:
        A `Comparison` of all runs that have begun; `.directory` holds runs.csv with all settings.

    Raises:
        ValueError, OSError: for a sweep file, a run in it or a folder that cannot be used.
    """
    from dfc_numba.sweep import sweeping  # heavy

    out = Path(sweeping.DEFAULT_PARENT) / Path(path).stem if out is None else Path(out)
    for name, value in (("at_once", at_once), ("threads", threads)):
        if value is not None:
            whole_number(name, value, Count)
    options = {"dry_run": False, "retry_failed": retry_failed, "at_once": at_once, "threads": threads}
    sweeping.sweep([str(path)], out, "local", **options)
    folders = [folder for folder in sorted(out.iterdir()) if (folder / CONFIG_NAME).exists()]
    plan, ended, _ = comparison.merge(folders, out)
    return Comparison(plan.directory, ended, summary.records(summary.summarize(plan, ended)))


def _display_of_run(progress, run, number, count):
    return _display(progress, f"run {number}/{count}, {run}: ") or NoDisplay()


def load_config(
    source: str | Path | Config | None = None, changes: Mapping[str, Any] | None = None
) -> Config:
    """Load the configuration of a preset or a TOML file, with changes.

    Args:
        source: name of a preset, path of a TOML file, or a `Config` that is changed; None for the defaults.
        changes: dict such as {"training.epochs": 2, "network.hidden": (100, 50)}; for a key without a value, None.

    Returns:
        The frozen `Config`; `.training.epochs` and so on. What a preset states although the changes made it meaningless is
        left out.

    Raises:
        ConfigurationError: (a ValueError) for an unknown preset or key, a value that is not allowed, or a contradiction.
    """
    changes = {} if changes is None else changes
    if source is not None and not isinstance(source, str | Path | Config):
        raise TypeError(
            f"source must be the name of a preset, the path of a TOML file or a Config, not {type(source).__name__}"
        )
    return config_file.load_config(str(source) if isinstance(source, Path) else source, changes)[0]


def train(
    config: str | Path | Config = DEFAULT_PRESET,
    out: PathLike | None = None,
    *,
    data: DataSet | None = None,
    network: Network | None = None,
    threads: int | None = None,
    observers: Iterable[Any] = (),
    progress: bool | None = None,
) -> TrainingResult:
    """Train a network, as `dfc train` does.

    Args:
        config: a `Config` from `load_config`, or the name of a preset or path of a TOML file.
        out: run directory, which must not hold a run; None trains in memory and writes nothing.
        data: a `DataSet` in memory, such as `data.from_arrays` returns, instead of that of the configuration; without `out`.
        network: a `Network` to start from, which is copied, instead of that of the configuration; without `out`.
        threads: number of threads; None for all available. The results do not depend on it.
        observers: list of objects with any of the events of `dfc.Observer`, such as `dfc.EarlyStopping(patience=3)`.
        progress: whether to show a bar and the results of each epoch; None: on a terminal and in a notebook.

    Returns:
        A `TrainingResult` with `.network` (`weights[i]` (n_i, n_{i-1})) and `.metrics`. Where the training diverged, a
        RuntimeWarning says where, and `.status` is "diverged".

    Raises:
        ValueError, TypeError, OSError: for a configuration or data that cannot be used; the message says what to change.
    """
    config = config if isinstance(config, Config) else load_config(config)
    display = _display(progress)
    observers = [*check_observers(observers), *([] if display is None else [display])]
    with display or nullcontext():
        if out is None:
            result = _in_memory(config, data, network, threads, observers)
        else:
            result = _in_directory(config, out, data, network, threads, observers)
    if result.status == "diverged":
        warnings.warn(f"the training diverged: {result.outcome.message}", RuntimeWarning, stacklevel=2)
    return result


def _in_directory(config, out, data, network, threads, observers):
    given = [name for name, value in (("data", data), ("network", network)) if value is not None]
    if given:
        raise ConfigurationError(
            f"{given[0]} in memory cannot be found again when the run in {out} is resumed; write it to a file and set "
            f"{ {'data': 'data.name', 'network': 'network.start_from'}[given[0]] } to its path, or leave out `out`"
        )
    experiment = Experiment(config, out=Path(out).expanduser(), threads=threads, command=sys.argv)
    result, trainer = experiment.run(observers), experiment.trainer
    return _result(trainer, result.outcome, config, experiment.dataset, result.directory)


def _in_memory(config, dataset, network, threads, observers):
    if logs(config):
        raise ConfigurationError(
            "[log] stores trajectories in a run directory; state `out`, or set log.on = False"
        )
    if dataset is None:
        dataset = load_data(config)
    else:
        if not isinstance(dataset, DataSet):
            raise TypeError(
                f"data is {type(dataset).__name__}; must be a DataSet, such as data.from_arrays returns"
            )
        dataset = suited_data(config, dataset).astype(config.training.dtype)
    network = create_network(config, dataset) if network is None else network.copy()
    analysis = Monitor(config, dataset) if config.analysis.every else None
    observers = [*configured(config), *observers]
    trainer = Trainer(network, dataset, config, threads=threads, analysis=analysis, observers=observers)
    return _result(trainer, trainer.run(), config, dataset)


def _result(trainer, outcome, config, dataset, directory=None):
    return TrainingResult(
        trainer.network,
        trainer.best_network,
        [dict(row) for row in trainer.rows],
        outcome,
        config,
        dataset,
        directory,
        {name: array.copy() for name, array in trainer.own.items()},
    )


def _display(progress, label=""):
    """Return what shows the progress; None for nothing."""
    shown = is_watched() if progress is None else progress
    return choose_display(label) if shown and ranks.is_root() else None
