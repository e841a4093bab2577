"""The folder of a sweep: the table of its runs, how far each has come, and what is left to do.

sweep.json          the runs with their numbers, which never change; jobs handed to a scheduler
sources/            the presets and files that the runs are made of, resolved
logs/               one log a run, and why a run could not start
runs.csv            all runs that there are with their results and settings, see `dfc compare`
.lock               locked while an engine starts runs, or hands them to a scheduler
NAME/               run directories
"""

import json
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dfc_numba.configuration.config_file import differences, load_config, to_toml, used_values
from dfc_numba.errors import ConfigurationError, UnusableFileError
from dfc_numba.runs.checkpoint import EPOCHS, contradictions
from dfc_numba.runs.run_directory import CONFIG_NAME, LOCK_NAME, holds_run, read_metrics, read_record
from dfc_numba.support import foreign, seals
from dfc_numba.support.files import refuse_links, write_text
from dfc_numba.support.locks import Lock, holder_of

TABLE_NAME, SOURCES, LOGS = "sweep.json", "sources", "logs"
OWN = (
    TABLE_NAME,
    SOURCES,
    LOGS,
    LOCK_NAME,
)  # what a sweep writes to, or reads, which no link may lead elsewhere
SCHEMA, SCHEMA_VERSION = "dfc-numba/sweep", "1.1"
WAITING, QUEUED, RUNNING, STOPPED = "waiting", "queued", "running", "stopped"
FAILED, DIVERGED, DONE = "failed", "diverged", "done"
STATES = (WAITING, QUEUED, RUNNING, STOPPED, FAILED, DIVERGED, DONE)
SCORES = ("test_accuracy", "val_accuracy", "train_accuracy")


@dataclass(frozen=True)
class SweepRun:
    """A run in the table of a sweep; for `name`, `source`, `seed` and `settings` see `PlannedRun`.

    Attributes:
        index: its number in the table, from 0.
        epochs: epochs that it is to have.
        current: whether the sweep file still has it.
    """

    index: int
    name: str
    source: str
    seed: int | None
    settings: tuple
    epochs: int
    current: bool = True


@dataclass(frozen=True)
class RunState:
    """The progress of a run.

    Attributes:
        run: the `SweepRun`. state: one of `STATES`. epochs: complete epochs. accuracy: the last one, None without.
        holder: the `Holder` of a run that is running. record: the content of run.json, or {}. reason: of its end.
    """

    run: SweepRun
    state: str
    epochs: int = 0
    accuracy: float | None = None
    holder: object = None
    record: dict = field(default_factory=dict)
    reason: str = ""

    @property
    def job(self):
        """The scheduler's job that runs it, or ran it last; "" without one."""
        if self.holder is not None and self.holder.job:
            return self.holder.job
        return ((self.record.get("environment") or {}).get("job") or {}).get("id", "")

    @property
    def node(self):
        """The host, or the node of the cluster, where it runs, or ran last."""
        environment = self.record.get("environment") or {}
        node = (environment.get("job") or {}).get("node") or environment.get("machine", {}).get("host", "")
        return node or (self.holder.host if self.holder is not None else "")


class SweepFolder:
    """A sweep on disk.

    Attributes:
        path: the folder. name: name of the sweep. runs: list of `SweepRun`. sources: file of each source by its name.
        extensions: options of the command line that load the extensions of its runs.
        jobs: what was handed to a scheduler, see `slurm_engine`.
        home: the folder that relative paths in the configurations start from. files: seals of the sources, see `seals`.
    """

    def __init__(self, path, name, runs, sources, extensions, jobs, home, files=None):
        self.path, self.name, self.runs, self.sources = Path(path), name, list(runs), dict(sources)
        self.extensions, self.jobs, self.home = tuple(extensions), list(jobs), home
        self.files = dict(files or {})
        refuse_links(self.path, OWN)

    @classmethod
    def open(cls, path):
        """Return the sweep in a folder.

        Raises:
            ConfigurationError: there is none, or its table cannot be read.
        """
        file = Path(path) / TABLE_NAME
        refuse_links(path, OWN)
        try:
            table = json.loads(foreign.read_text(file))
            if not seals.is_sound(table):
                raise ConfigurationError(
                    f"{file} is damaged, or was edited: its SHA-256 differs; put the original back, or start the sweep in "
                    "another folder with --out"
                )
            if (
                table["schema"] != SCHEMA
                or table["schema_version"].split(".")[0] != SCHEMA_VERSION.split(".")[0]
            ):
                raise ConfigurationError(
                    f"{file} has schema {table['schema']} {table['schema_version']}; this program reads {SCHEMA} "
                    f"{SCHEMA_VERSION}"
                )
            runs = [SweepRun(**{**run, "settings": tuple(run["settings"])}) for run in table["runs"]]
            rest = (table[key] for key in ("sources", "extensions", "jobs", "home"))
            return cls(path, table["name"], runs, *rest, table.get("files"))
        except (FileNotFoundError, NotADirectoryError):
            raise ConfigurationError(
                f"{path} holds no sweep ({TABLE_NAME} is missing); start one with dfc sweep SWEEP.toml --out {path}"
            ) from None
        except ConfigurationError:
            raise
        except (OSError, UnusableFileError) as error:
            raise ConfigurationError(f"{file} cannot be read ({error})") from None
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
            raise ConfigurationError(
                f"{file} is damaged: it is not the table of a sweep; put the original back, or start the sweep in another folder "
                "with --out"
            ) from None

    def save(self):
        """Write the table."""
        table = {
            "schema": SCHEMA, "schema_version": SCHEMA_VERSION, "name": self.name, "home": self.home,
            "extensions": self.extensions, "sources": self.sources, "jobs": self.jobs,
            "runs": [vars(run) for run in self.runs], "files": self.files,
        }  # fmt: skip
        write_text(self.path / TABLE_NAME, json.dumps(seals.sealed(table), indent=1) + "\n")

    @property
    def current(self):
        """The runs that the sweep file has."""
        return [run for run in self.runs if run.current]

    def run(self, index):
        """Return the run of a number; refuse one that does not exist."""
        if not 0 <= index < len(self.runs):
            raise ConfigurationError(
                f"{self.path} has no run {index}; its runs have the numbers 0 to {len(self.runs) - 1}"
            )
        return self.runs[index]

    def directory(self, run):
        """Return the run directory of a run."""
        return self.path / run.name

    def source(self, run):
        """Return the path of the file that a run is made of."""
        return self.path / self.sources[run.source]

    def log(self, run):
        """Return the path of the log of a run."""
        return self.path / LOGS / f"{run.index}.log"

    def configuration(self, run):
        """Return the resolved `Config` of a run."""
        return load_config(str(self.source(run)), run.settings)[0]

    @contextmanager
    def claimed(self):
        """Keep other processes from starting runs of this sweep meanwhile."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / LOGS).mkdir(exist_ok=True)
            lock = Lock(self.path / LOCK_NAME)
        except BlockingIOError as error:
            raise ConfigurationError(
                f"{self.path} is in use by {error}, which starts runs of this sweep; wait until it ends, or choose another "
                "folder with --out"
            ) from None
        except OSError as error:
            raise ConfigurationError(
                f"cannot write to {self.path} ({error.strerror or error}); choose another folder with --out"
            ) from None
        try:
            yield
        finally:
            lock.release()

    # --- failures that leave no run directory ---

    def _failure_file(self, run):
        return self.path / LOGS / f"{run.index}.failed.json"

    def note_failure(self, run, code):
        """Remember that a run ended with an exit code of failure."""
        (self.path / LOGS).mkdir(exist_ok=True)
        write_text(self._failure_file(run), json.dumps({"code": code, "time": time.time()}) + "\n")

    def forget_failure(self, run):
        """Forget that a run failed."""
        self._failure_file(run).unlink(missing_ok=True)

    # --- states ---

    def state(self, run, queued=()):
        """Return the `RunState` of a run; `queued` has the numbers of the runs that a scheduler has."""
        directory = self.directory(run)
        if not holds_run(directory):
            state = FAILED if self._failure_file(run).exists() else WAITING
            reason = f"see {self.log(run)}" if state == FAILED else ""
            return RunState(run, QUEUED if run.index in queued else state, reason=reason)
        record, rows = read_record(directory) or {}, _metrics(directory)
        facts = {"epochs": len(rows), "accuracy": _last_score(rows), "record": record}
        holder = holder_of(directory / LOCK_NAME)
        if holder is not None:
            return RunState(run, RUNNING, holder=holder, **facts)
        status, reason = record.get("status", "running"), record.get("stop_reason", "")
        if status in ("running", "interrupted") and self._failure_file(run).exists():
            status, reason = FAILED, f"see {self.log(run)}"
        state = {"done": DONE, "diverged": DIVERGED, "failed": FAILED}.get(status, STOPPED)
        if state == DONE and len(rows) < run.epochs:
            state = STOPPED  # more epochs are wanted than when it ended
        if run.index in queued and state in (STOPPED, FAILED):
            state = QUEUED
        return RunState(run, state, reason=reason, **facts)

    def epochs(self, run):
        """Return the number of epochs that a run has finished."""
        return len(_metrics(self.directory(run)))

    def states(self, queued=()):
        """Return the `RunState` of every run that the sweep file has."""
        return [self.state(run, queued) for run in self.current]


def left(states, retry_failed=False):
    """Return the runs that are to be started: those that wait or stopped, and failed ones only where that is asked for."""
    wanted = {WAITING, STOPPED} | ({FAILED} if retry_failed else set())
    return [state.run for state in states if state.state in wanted]


def update(planned, path):
    """Return (`SweepFolder` of a sweep file, sentences on what changed since it was started); nothing is written.

    Args:
        planned: the `SweepFile`.
        path: the folder of the sweep, which may exist.

    Raises:
        ConfigurationError: a run that has begun would have another configuration; its result stays.
    """
    path, existing = Path(path), None
    if (path / TABLE_NAME).exists():
        existing = SweepFolder.open(path)
    sources = {name: f"{SOURCES}/{name}.toml" for name in planned.sources}
    before = {run.name: run for run in existing.runs} if existing else {}
    runs, changes = list(existing.runs) if existing else [], []
    new, again, changed = 0, 0, {}
    for run in planned.runs:
        old = before.get(run.name)
        index = len(runs) if old is None else old.index
        entry = SweepRun(index, run.name, run.source, run.seed, run.settings, run.config.training.epochs)
        if old is None:
            runs.append(entry)
            new += 1
            _refuse_foreign(path / run.name, run)
            continue
        runs[index] = entry
        again += not old.current
        _note_changes(existing, old, run, changed)
    names = {run.name for run in planned.runs}
    gone = [run for run in runs if run.name not in names]
    for run in gone:
        runs[run.index] = SweepRun(**{**vars(run), "current": False})
    if existing:
        dropped = sum(run.current for run in gone)
        changes += [f"new runs: {new}"] * (new > 0) + [f"runs added again: {again}"] * (again > 0)
        changes += [f"runs no longer in the sweep, whose directories stay: {dropped}"] * (dropped > 0)
        changes += [
            f"{text}: in {len(names)} runs, such as {names[0]}" for text, names in sorted(changed.items())
        ]
        sources = {**existing.sources, **sources}
    jobs, files = (existing.jobs, existing.files) if existing else ([], {})
    folder = SweepFolder(path, planned.name, runs, sources, planned.extensions, jobs, os.getcwd(), files)
    return folder, changes


def write_sources(folder, planned):
    """Write the presets and files of a sweep as they are now, so that no later change of them reaches its runs."""
    (folder.path / SOURCES).mkdir(exist_ok=True)
    for name, source in planned.sources.items():
        config, _ = load_config(source)
        text = to_toml(config, f"{name}: what runs of this sweep are made of")
        write_text(folder.path / folder.sources[name], text)
        folder.files[folder.sources[name]] = seals.seal_of(text)


def _refuse_foreign(directory, run):
    """Refuse a directory with a run of another configuration."""
    own = directory / CONFIG_NAME
    if own.exists() and (
        text := contradictions(used_values(load_config(str(own))[0]), used_values(run.config))
    ):
        raise ConfigurationError(
            f"{directory} holds a run of another configuration ({text}); choose another folder with --out"
        )


def _note_changes(folder, old, run, changed):
    """Collect what differs between a run in the table and in the sweep file; refuse it where the run has begun."""
    try:
        before, now = used_values(folder.configuration(old)), used_values(run.config)
    except ValueError:
        return  # made by another version; the run directory is what counts
    differing = differences(before, now)
    own = folder.directory(old) / CONFIG_NAME
    if own.exists():
        text = contradictions(used_values(load_config(str(own))[0]), now)
        if text:
            raise ConfigurationError(
                f"{folder.path}: the sweep has changed for a run that has started, {old.name} ({text}); put the old value "
                'back, make it an axis of the grid, set."section.key" = [old, new], or choose another folder with --out'
            )
    for key, text in differing.items():
        changed.setdefault(f"{key} = {text}", []).append(old.name)
    if EPOCHS in differing:
        folder.forget_failure(old)


def _metrics(directory):
    """Return the rows of metrics.csv as texts; none where it cannot be read, which must not hide the other runs."""
    try:
        return read_metrics(directory)
    except (OSError, ValueError):
        return []


def _last_score(rows):
    if rows:
        for name in SCORES:
            if rows[-1].get(name, "nan") not in ("nan", "", None):
                return float(rows[-1][name])
    return None
