"""Several methods side by side, each with several seeds: what to run, and running it. Tables are in `summary`.

A comparison is a folder with one ordinary run directory per source and seed. Nothing else says what is left
to do: a run that ended well, or diverged (it would again), is kept; any other is begun, or resumed. So an interrupted
comparison goes on when it is started again, and more seeds or sources may be added later.
"""

import gc
import hashlib
import os
import re
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from dfc_numba.configuration.config_file import differences, load_config, used_values
from dfc_numba.errors import ConfigurationError, UnusableFileError
from dfc_numba.extensions import explained
from dfc_numba.runs import summary
from dfc_numba.runs.expectations import expect
from dfc_numba.runs.experiment import Experiment, create_network, load_data
from dfc_numba.runs.resumption import refuse_other_extensions
from dfc_numba.runs.run_directory import (
    CONFIG_NAME,
    DEFAULT_PARENT,
    METRICS_NAME,
    RUN_NAME,
    holds_run,
    read_epochs,
    read_record,
)
from dfc_numba.support.locks import try_lock

KEPT = ("done", "diverged")
SWEEP_TABLE = "sweep.json"  # in the folder of a sweep
NEXT_CHANGE = re.compile(r"\+(?=[A-Za-z_][\w.]*=)")


@dataclass(frozen=True)
class Source:
    """A source of a comparison: a preset or TOML file, optionally with settings.

    Attributes:
        name: what tables and folders call it, such as "mnist-dfc-ss+training.method=dfc-ss-newton".
        config: its resolved `Config`, with the first seed.
        left_out: keys of the preset or file that the settings made meaningless.
    """

    name: str
    config: object
    left_out: tuple = ()

    @property
    def folder(self):
        """The name without what does not suit a folder."""
        return re.sub(r"[^\w.+=,-]", "-", re.sub(r"[\[\]{}'\"\s]", "", self.name)).strip("-.")


@dataclass(frozen=True)
class Run:
    """One run of a comparison: source, seed, and its run directory."""

    source: Source
    seed: int
    directory: Path

    @property
    def config(self):
        """The source's configuration with this run's seed."""
        config = self.source.config
        return config.model_copy(update={"training": config.training.model_copy(update={"seed": self.seed})})

    def __str__(self):
        return f"{self.source.name}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """All runs of a comparison, in their order: every source with its first seed, then with the next one."""

    sources: tuple
    runs: tuple
    directory: Path


@dataclass(frozen=True)
class Ended:
    """The ending of a run, as its run directory records it.

    Attributes:
        run: the `Run`.
        status: "done", "diverged", "failed" or "interrupted".
        message: the reason.
        rows: the rows of metrics.csv, numbers by column.
        best_epoch: number of the epoch that is best on the validation set (without one: the training set).
        signal: number of the signal that stopped the run, or None.
    """

    run: Run
    status: str
    message: str
    rows: tuple = ()
    best_epoch: int = 0
    signal: int | None = None


@dataclass(frozen=True)
class Outlook:
    """The work that a comparison is about to do.

    Attributes:
        datasets: a line about each data set.
        kept: number of runs that have ended before.
        seconds: expected time of the other ones, or None where a trial did not end well.
    """

    datasets: tuple
    kept: int
    seconds: float | None


def plan(texts, settings=(), *, seeds=1, out=None):
    """Return the `Plan` of a comparison; nothing is written.

    Args:
        texts: the sources: names of presets or paths of TOML files, each followed by any number of changes of
            its own, as "PRESET+section.key=value".
        settings: texts "section.key=value" for all sources.
        seeds: number of runs per source, with the seeds training.seed, training.seed + 1, ...
        out: the folder; None for one in runs/ whose name depends on what the sources say.

    Raises:
        ConfigurationError: a source that does not exist or refuses a setting, a setting stated twice, a source
            listed twice.
    """
    parts = [NEXT_CHANGE.split(text) for text in texts]
    sources = [
        _source(name, *part, settings=settings)
        for name, part in zip(_names(texts, parts), parts, strict=True)
    ]
    _refuse_repeated(sources)
    directory = Path(out) if out else Path(DEFAULT_PARENT) / f"compare-{_digest(sources)}"
    runs = []
    for offset in range(seeds):
        for source in sources:
            seed = source.config.training.seed + offset
            runs.append(Run(source, seed, directory / f"{source.folder}-seed{seed}"))
    return Plan(tuple(sources), tuple(runs), directory)


def prepare(plan, threads=None):
    """Return the `Outlook` of a plan, after trying everything that could keep a run from starting; write nothing.

    Raises:
        ConfigurationError: a run directory of another configuration, data or a network that do not fit.
    """
    for run in plan.runs:
        _refuse_changed(run)
    left = Counter(run.source.name for run in plan.runs if finished(run) is None)
    seconds, datasets = [], []
    by_data = {}
    for source in plan.sources:
        by_data.setdefault(data_key(source.config), []).append(source)
    for group in (by_data[key] for key in sorted(by_data)):
        with _naming(group[0].name):
            dataset = load_data(group[0].config)
        datasets.append(dataset.summary)
        seconds += [_seconds(source, dataset, left[source.name], threads) for source in group]
    total = None if None in seconds else sum(seconds)
    return Outlook(tuple(dict.fromkeys(datasets)), len(plan.runs) - left.total(), total)


def run(plan, *, display, threads=None, command=()):
    """Do the remaining runs and yield how each run `Ended`; write the tables after every run.

    A run that diverges or fails does not stop the others; a signal ends the comparison.

    Args:
        plan: the `Plan`.
        display: function of (run, number of the run from 1, number of runs) that returns a context manager,
            whose value observes the run.
        threads: number of threads; None for as many as there are.
        command: the command line, for run.json.

    Raises:
        ConfigurationError: the folder cannot be written to, or another process compares in it.
    """
    ended = []
    with _claimed(plan.directory):
        for number, run in enumerate(plan.runs, start=1):
            kept = finished(run)
            if kept is None:
                gc.collect()  # the trainer of the run before and its observers know each other, and keep its data set
                with display(run, number, len(plan.runs)) as observer:
                    ended.append(_perform(run, [observer], threads, command))
                summary.write_tables(plan, ended)
            else:
                ended.append(kept)
            yield ended[-1]
            if ended[-1].signal is not None:
                return
        summary.write_tables(plan, ended)


def note_of_durations(configs):
    """Return a sentence about simulated durations that differ because dt does; None where they do not."""
    controllers = {config.controller for config in configs if "controller.steps" not in config.unused_keys()}
    durations = sorted({controller.duration for controller in controllers})
    if len({c.dt for c in controllers}) < 2 or len({c.steps for c in controllers}) > 1 or len(durations) < 2:
        return None
    return (
        f"controller.dt differs, but controller.steps does not: the simulated durations are {durations[0]:.4g} to "
        f"{durations[-1]:.4g} tau_u; set controller.duration in place of steps to keep them equal"
    )


def finished(run):
    """Return the `Ended` of a run that need not be done again, or None."""
    ended = _recorded(run)
    return ended if ended is not None and ended.status in KEPT else None


def merge(paths, out=None):
    """Write runs.csv and the tables of a comparison for runs that there are; nothing is trained.

    Runs that differ in the seed alone are taken together. Of a folder of a sweep, as in sweeps/a/*, what is not a run is
    passed over.

    Args:
        paths: run directories.
        out: folder for the tables; None for the one that the runs are in.

    Returns:
        (`Plan`, list of `Ended`, path of runs.csv)

    Raises:
        ConfigurationError: a path that is not a run and not in a sweep, or no path that is a run, or no common folder.
    """
    paths = list(dict.fromkeys(map(Path, paths)))
    found = [path for path in paths if path.is_dir() and (path / CONFIG_NAME).exists()]
    alien = [path for path in paths if path not in found and not (path.parent / SWEEP_TABLE).exists()]
    if alien or not found:
        raise ConfigurationError(
            f"{next(iter(alien or paths), 'nothing')} is not a run directory; name runs, such as sweeps/a/*, or presets "
            "without them"
        )
    folders = {path.absolute().parent for path in found}
    if out is None and len(folders) > 1:
        raise ConfigurationError("the runs are in several folders; name one for the tables with --out")
    directory = Path(out) if out else found[0].parent
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"cannot write to {directory} ({error.strerror}); choose another --out"
        ) from None
    plan, ended, settings = gather(found, directory)
    summary.write_tables(plan, ended)
    return plan, ended, summary.write_runs(plan, ended, settings)


def gather(paths, directory=None):
    """Take runs that there are together, those that differ in the seed alone as one source; nothing is written.

    Args:
        paths: run directories. directory: folder of the comparison; None for that of the first run.

    Returns:
        (`Plan`, list of `Ended`, list of the `used_values` of each run)

    Raises:
        OSError, ValueError, KeyError: a run that cannot be read.
    """
    sources, runs, ended, settings = {}, [], [], []
    for path in paths:
        config, _ = load_config(str(path / CONFIG_NAME))
        values = used_values(config)
        settings.append(values)
        key = repr({name: value for name, value in values.items() if name != "training.seed"})
        name = re.sub(rf"-seed{config.training.seed}$", "", path.name)
        run = Run(sources.setdefault(key, Source(name, config)), config.training.seed, path)
        runs.append(run)
        ended.append(_recorded(run) or Ended(run, "running", ""))
    return Plan(tuple(sources.values()), tuple(runs), directory or paths[0].parent), ended, settings


def _perform(run, observers, threads, command):
    """Start a run, or resume an unfinished one."""
    try:
        experiment = Experiment(
            run.config, out=run.directory, name=run.directory.name, threads=threads, command=command,
            resume=holds_run(run.directory),
        )  # fmt: skip
        result = experiment.run(observers)
    except Exception as error:  # noqa: BLE001 (the other runs continue; run.json keeps the traceback)
        return Ended(run, "failed", f"{type(error).__name__}: {error}")
    return replace(_recorded(run), signal=result.signal)


def _recorded(run):
    """Return the `Ended` that a run directory records, or None where there is no run."""
    record = read_record(run.directory)
    if record is None or not (run.directory / METRICS_NAME).exists():
        return None
    rows, results = tuple(read_epochs(run.directory)), record.get("results", {})
    best, epochs = results.get("best_epoch", 0), results.get("epochs", 0)
    if not isinstance(best, int) or not 0 <= best <= epochs <= len(rows):
        raise UnusableFileError(
            f"{run.directory / METRICS_NAME} is damaged: it has {len(rows)} rows, and {RUN_NAME} states {epochs} epochs, the "
            f"best being {best}; --resume writes both again"
        )
    return Ended(run, record.get("status", "running"), record.get("stop_reason", ""), rows, best)


def _source(name, source, *changes, settings):
    """Return the `Source` with the settings for all, and its own changes."""
    keys = {setting.partition("=")[0].strip() for setting in settings}
    twice = [change for change in changes if change.partition("=")[0] in keys]
    if twice:
        raise ConfigurationError(f"{name}: {twice[0]} is also set for all sources; state it once")
    with _naming(source, *changes):
        config, left_out = load_config(source, [*settings, *changes])
    return Source(name, config, tuple(left_out))


def _names(texts, parts):
    """Return the names of the sources: without folder and .toml unless they are needed to tell sources apart."""
    short = ["+".join([Path(source).stem, *changes]) for source, *changes in parts]
    count = Counter(short)
    return [text if count[name] > 1 else name for text, name in zip(texts, short, strict=True)]


def _refuse_repeated(sources):
    count = Counter(source.folder for source in sources)
    repeated = [source.name for source in sources if count[source.folder] > 1]
    if repeated:
        raise ConfigurationError(
            f"the folders of {' and '.join(repeated)} would have the same name; list each source once, and give "
            "different files names that differ in letters or digits"
        )


def _refuse_changed(run):
    """Refuse a run directory that holds another configuration than the one to run."""
    path = run.directory / CONFIG_NAME
    if not path.exists():
        return
    with _naming(path), explained((read_record(run.directory) or {}).get("extensions", [])):
        there, _ = load_config(str(path))
        refuse_other_extensions(run.directory, run.config)
    changed = differences(used_values(there), used_values(run.config))
    if changed:
        texts = "; ".join(f"{key} = {text}" for key, text in changed.items())
        raise ConfigurationError(
            f"{run.directory} holds a run of another configuration ({texts}); choose another directory with --out"
        )


def _digest(sources):
    """Return a few letters that depend on names and configurations alone."""
    content = [(source.name, used_values(source.config)) for source in sources]
    return hashlib.sha256(repr(content).encode()).hexdigest()[:8]


def data_key(config):
    """Return a text that is equal for configurations that load the same data under the same conditions."""
    return repr((config.data, config.training.dtype, config.target.loss, config.target.class_value))


def _seconds(source, dataset, n_runs, threads):
    """Estimate the seconds of the remaining runs of a source, after creating its network."""
    with _naming(source.name):
        network = create_network(source.config, dataset)
        seconds = expect(network, dataset, source.config, threads=threads).seconds if n_runs else 0.0
    return None if seconds is None else n_runs * seconds


@contextmanager
def _claimed(directory):
    """Create the folder, and keep other processes from comparing in it meanwhile."""
    other = "choose another directory with --out"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(directory, os.O_RDONLY)
    except OSError as error:
        raise ConfigurationError(f"cannot write to {directory} ({error.strerror}); {other}") from None
    try:
        if try_lock(handle) is False:
            raise ConfigurationError(
                f"{directory} is in use by another comparison; wait until it ends, or {other}"
            )
        yield
    finally:
        os.close(handle)


@contextmanager
def _naming(name, *changes):
    """Name the source or file in an error message; with its changes, unless the file itself is wrong."""
    try:
        yield
    except ValueError as error:
        text = str(error)
        whole = "+".join([str(name), *changes])
        raise ConfigurationError(text if text.startswith(f"{name}: ") else f"{whole}: {text}") from None
