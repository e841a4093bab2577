"""The directory of a run; each file is written as a whole or not at all.

config.toml             the configuration as resolved; `dfc train config.toml` repeats the run
run.json                environment, status, reason of the end, times, results; of all sessions, if it was resumed; seals of
                        these, of config.toml and of metrics.csv, see `support.seals`
metrics.csv             one row per epoch, with what [analysis] measures in the end
analysis.h5             all that [analysis] has measured
weights_best.h5         the network of the best epoch
weights_last.h5         the network at the end, for now of the last complete epoch
checkpoint.h5           all that evolves, to resume the run from; checkpoint_previous.h5 is the one before
.lock                   locked while a process writes to the directory
"""

import csv
import io
import json
import re
import time
import warnings
from contextlib import suppress
from datetime import datetime, timezone
from itertools import chain, count
from math import isfinite, nan
from pathlib import Path

from dfc_numba.analysis import measurements
from dfc_numba.analysis.monitor import SECONDS
from dfc_numba.configuration.config_file import to_toml
from dfc_numba.errors import CheckpointError, ConfigurationError, UnusableFileError
from dfc_numba.runs import checkpoint
from dfc_numba.runs.checkpoint import CheckpointPair
from dfc_numba.runs.scratch import Scratch
from dfc_numba.storage.segments import COMPACTED, FOLDER
from dfc_numba.support import foreign, seals
from dfc_numba.support.files import refuse_links, remove_leftovers, write_text
from dfc_numba.support.locks import Lock

SCORES = [f"{split}_{score}" for split in ("train", "val", "test") for score in ("loss", "accuracy")]
METRICS = ("epoch", *SCORES, "seconds")
CONFIG_NAME, RUN_NAME, METRICS_NAME, ANALYSIS_NAME = "config.toml", "run.json", "metrics.csv", "analysis.h5"
BEST_NAME, LAST_NAME, LOCK_NAME = "weights_best.h5", "weights_last.h5", ".lock"
FILES = (CONFIG_NAME, RUN_NAME, METRICS_NAME, ANALYSIS_NAME, BEST_NAME, LAST_NAME, *checkpoint.FILES)
OWN = (
    *FILES,
    LOCK_NAME,
    *checkpoint.OTHERS,
    FOLDER,
    COMPACTED,
)  # names that a run writes or reads in its directory
DEFAULT_PARENT = "runs"
# what run.json records of each session
SESSION = (
    "status", "stop_reason", "started", "ended", "seconds", "command", "environment", "extensions", "resumed_after",
    "checkpoints", "traceback",
)  # fmt: skip
KILLED = "killed"
# types of the entries of run.json that are read
KINDS = {
    "status": str, "stop_reason": str, "name": str, "results": dict, "earlier_sessions": list, "extensions": list,
    "resumed": int, "seconds": int | float, "files": dict,
}  # fmt: skip


class RunDirectory:
    """Writes the directory of one run; an observer of the trainer.

    A directory belongs to one run: `create` claims it by creating run.json, which must not exist before; `reopen` takes
    it over to resume the run. Meanwhile it is locked.

    Attributes:
        path: the directory. folder: where files are written; another one with scratch.
        record: the content of run.json, a dict of plain values.
        checkpoints: the `CheckpointPair`.
    """

    def __init__(self, path, config, record, checkpoint_minutes, wait=0.0, scratch=None):
        self.path = Path(path)
        refuse_links(self.path, OWN)
        self._lock = _locked(self.path, wait)
        try:
            self._scratch = None if scratch is None else Scratch(self.path, scratch)
        except BaseException:
            self._lock.release()
            raise
        self.folder = self.path if self._scratch is None else self._scratch.folder
        self.config, self.record = config, record
        self.checkpoints = CheckpointPair(self.folder, checkpoint_minutes)
        self._started = time.monotonic()
        self._trainer = self._config_before = None

    @classmethod
    def create(
        cls,
        config,
        *,
        path=None,
        name="run",
        checkpoint_minutes=checkpoint.MINUTES,
        wait=0.0,
        scratch=None,
        **facts,
    ):
        """Claim a new directory and write configuration, run.json and an empty metrics.csv into it.

        Args:
            config: the resolved `Config`.
            path: the directory; None for the first free runs/<name>-NNN.
            name: name of the run.
            checkpoint_minutes: time between two checkpoints.
            wait: seconds to wait for another process that uses the directory.
            scratch: folder on a disk of this node to work in, see `Scratch`; None to work in the directory itself.
            facts: further entries of run.json, such as the command line and the environment.

        Raises:
            ConfigurationError: the directory holds a run already, or cannot be written to.
        """
        claimed = _claim(path, name)
        try:
            directory = cls(claimed, config, _new_record(name, facts), checkpoint_minutes, wait, scratch)
        except BaseException:
            (claimed / RUN_NAME).unlink(missing_ok=True)
            raise
        directory._write_config()
        directory._write_metrics([])
        directory._write_record()
        return directory

    @classmethod
    def reopen(
        cls,
        config,
        *,
        path,
        name="run",
        checkpoint_minutes=checkpoint.MINUTES,
        wait=0.0,
        scratch=None,
        **facts,
    ):
        """Take over the directory of a run that was interrupted, killed or is to continue; arguments as for `create`.

        Nothing is written before the run starts.

        Raises:
            ConfigurationError: another process runs in the directory, or it cannot be written to.
        """
        directory = cls(path, config, _new_record(name, facts), checkpoint_minutes, wait, scratch)
        directory.record = _resumed_record(directory.record, read_record(directory.path))
        return directory

    @property
    def resumed(self):
        """True if the directory had a run before."""
        return self.record["resumed"] > 0

    def find_checkpoint(self):
        """Return the `Checkpoint` to resume from; None where the run was killed before there was anything to lose.

        Raises:
            CheckpointError: if there is none although the run had begun, or none that can be read.
        """
        found = self.checkpoints.find()
        if found is None and (self.folder / LAST_NAME).exists():
            raise CheckpointError(
                f"{self.path} holds a run without a checkpoint to resume it from; start a new run in another directory"
            )
        return found

    def discard(self):
        """Let go of the directory for a run that cannot start; remove what `create` wrote."""
        if self._scratch is not None:
            self._scratch.remove()
        if not self.resumed:
            for name in (CONFIG_NAME, METRICS_NAME, RUN_NAME):
                (self.path / name).unlink(missing_ok=True)
        self._lock.release()
        if not self.resumed:
            (self.path / LOCK_NAME).unlink(missing_ok=True)
            with suppress(OSError):  # where it holds something else, which is not ours to remove
                self.path.rmdir()

    def on_start(self, trainer):
        """Keep the trainer, whose state is saved later, and bring the files to where it stands."""
        self._trainer = trainer
        if self.resumed:
            remove_leftovers(self.folder, FILES)
            self.record["files"] = {}  # which are about to change
            self._write_record()
            self._replace_config()
            self._write_metrics(trainer.rows)
            self._write_analysis()
            if trainer.rows:
                self._save(trainer.best_network, BEST_NAME)
            self.record["resumed_after"] = {
                "epochs": len(trainer.rows),
                "minibatches": trainer.counters.minibatches,
            }
            self._write_record()
        if trainer.counters.minibatches == 0:
            self.checkpoints.write(trainer)
        self._copy_back()
        if trainer.counters.minibatches == 0:
            self._announce_checkpoint()

    def on_minibatch(self, progress):
        """Write a checkpoint if one is due."""
        written = self.checkpoints.written
        self.checkpoints.write_if_due(self._trainer)
        if self.checkpoints.written > written:
            self._copy_back()
            self._announce_checkpoint()

    def on_epoch(self, row):
        """Add a row to metrics.csv; save analysis, network, the best network if it changed, and a checkpoint."""
        self._write_metrics(self._trainer.rows)
        self._write_record()
        self._write_analysis()
        self._save(self._trainer.network, LAST_NAME)
        if self._trainer.counters.best_epoch == row["epoch"]:
            self._save(self._trainer.best_network, BEST_NAME)
        self.checkpoints.write(self._trainer)
        self._copy_back()
        self._announce_checkpoint()

    def on_end(self, outcome):
        """Save an interrupted network (a diverged one would replace a sound one); close run.json."""
        if outcome.status == "interrupted" or outcome.stopped_early:
            self._save(self._trainer.network, LAST_NAME)
            self.checkpoints.write(self._trainer)
            self._announce_checkpoint()
        self._write_analysis()
        results = {"epochs": outcome.epochs, "best_epoch": outcome.best_epoch}
        if outcome.stopped_early:
            results["stopped_early"] = True
        if self._trainer.analysis is not None:
            results["analysis"] = self._trainer.analysis.cost()
        if rows := self._trainer.rows:
            best = next((row for row in rows if row["epoch"] == outcome.best_epoch), rows[-1])
            results.update(last=_plain(rows[-1]), best=_plain(best))
        self.close(outcome.status, outcome.message, results=results)

    def close(self, status, stop_reason, **facts):
        """Write how the run ended into run.json, and let go of the directory.

        A resumed run that fails before its first checkpoint leaves config.toml as it was: that of the last checkpoint.
        """
        seconds = round(time.monotonic() - self._started, 3)
        written = {"written": self.checkpoints.written, "seconds": round(self.checkpoints.seconds, 3)}
        self.record.update(
            status=status,
            stop_reason=stop_reason,
            ended=_now(),
            seconds=seconds,
            checkpoints=written,
            **facts,
        )
        try:
            if status == "failed" and self._config_before and not self.checkpoints.written:
                self._write_text(CONFIG_NAME, self._config_before)
            self._write_record()
            self._copy_back()
        finally:
            self._lock.release()
        if self._scratch is not None:
            self._scratch.remove()

    def _announce_checkpoint(self):
        self._trainer.notify("on_checkpoint", self.path / checkpoint.NEWEST)

    def _copy_back(self):
        if self._scratch is not None:
            self._scratch.copy_back()

    def _save(self, network, name):
        """Save a network within the directory: `Network.save` would follow a link."""
        refuse_links(self.folder, [name])
        network.save(self.folder / name)

    def _replace_config(self):
        path = self.folder / CONFIG_NAME
        self._config_before = foreign.read_text(path) if path.exists() else None
        self._write_config()

    def _write_config(self):
        heading = f"{self.record['name']}: the configuration as resolved; `dfc train` takes this file"
        options = [f"--extension {facts['name']}" for facts in self.record.get("extensions", [])]
        if options:
            heading += f"\nwith the extensions of the run: {' '.join(options)}"
        self._write_text(CONFIG_NAME, to_toml(self.config, heading))

    def _write_metrics(self, rows):
        """Write the rows, NaN for what was not measured; what earlier sessions have measured stays."""
        text = io.StringIO()
        columns = dict.fromkeys((*METRICS, *measurements.configured(self.config), *chain.from_iterable(rows)))
        columns.pop(SECONDS, None)
        writer = csv.DictWriter(text, columns, restval=nan, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        self._write_text(METRICS_NAME, text.getvalue(), growing=True)

    def _write_analysis(self):
        if self._trainer.analysis is not None:
            self._trainer.analysis.write(self.folder / ANALYSIS_NAME)

    def _write_text(self, name, text, growing=False):
        """Write a file whose seal goes into run.json when that is written next."""
        write_text(self.folder / name, text)
        self.record.setdefault("files", {})[name] = seals.seal_of(text, growing=growing)

    def _write_record(self):
        write_record(self.folder, self.record)


def holds_run(path):
    """Return whether a directory holds a run, or what is left of one."""
    return any((Path(path) / file).exists() for file in FILES)


def read_metrics(path):
    """Return the rows of metrics.csv, dicts of texts by column; none where it is missing.

    Warns where the file is not as the run wrote it.

    Raises:
        OSError, ValueError: if it cannot be read.
    """
    try:
        text = foreign.read_text(Path(path) / METRICS_NAME)
    except (FileNotFoundError, NotADirectoryError):
        return []
    seals.warn_if_changed(Path(path) / METRICS_NAME, text)
    try:
        return list(csv.DictReader(text.splitlines()))
    except csv.Error as error:
        raise UnusableFileError(
            f"{Path(path) / METRICS_NAME} is damaged ({error}); --resume writes it again"
        ) from None


def read_epochs(path):
    """Return the rows of metrics.csv, dicts of numbers by column; none where it is missing.

    Raises:
        OSError, ValueError: if it cannot be read, or a row of it is incomplete or holds something else than numbers.
    """
    rows = []
    for number, row in enumerate(read_metrics(path), 1):
        try:
            numbers = {name: float(text) for name, text in row.items()}
            rows.append({**numbers, "epoch": int(row["epoch"])})
            if not {*METRICS} <= {*row}:
                raise ValueError
        except (TypeError, ValueError, KeyError):
            raise UnusableFileError(
                f"{Path(path) / METRICS_NAME} is damaged: row {number} does not have a number in every column; --resume writes "
                "it again"
            ) from None
    return rows


def write_record(path, record):
    """Write run.json, sealed."""
    write_text(Path(path) / RUN_NAME, json.dumps(seals.sealed(record), indent=2) + "\n")


def read_record(path):
    """Return the content of run.json; None where it is missing or damaged, or the run was killed before it began.

    What does not fit its seal, since it is damaged or was edited, is read with a warning; entries of another type than they have
    are left out, with a warning.
    """
    file = Path(path) / RUN_NAME
    refuse_links(path, [RUN_NAME])
    try:
        text = foreign.read_text(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        return _damaged_record(error)
    if not text.strip():
        return None
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return _damaged_record(f"{file} is damaged: it is not JSON")
    if not isinstance(record, dict):
        return _damaged_record(f"{file} is damaged: it does not hold the record of a run")
    if not seals.is_sound(record):
        _damaged_record(
            f"{file} is damaged, or was edited: its SHA-256 differs; it is read as it is {seals.EDITED}"
        )
    record.pop(seals.SEAL, None)
    wrong = [key for key, kind in KINDS.items() if key in record and not isinstance(record[key], kind)]
    sessions, results = record.get("earlier_sessions"), record.get("results")
    if isinstance(sessions, list) and not all(isinstance(session, dict) for session in sessions):
        wrong.append("earlier_sessions")
    if isinstance(results, dict) and not isinstance(results.get("epochs", 0), int):
        wrong.append("results")
    if wrong:
        _damaged_record(f"{file} is damaged: {', '.join(wrong)}; these entries are left out")
    return {key: value for key, value in record.items() if key not in wrong}


def _damaged_record(problem):
    warnings.warn(str(problem), stacklevel=3)


def last_of(name):
    """Return the last runs/<name>-NNN, or None."""
    numbered = re.compile(rf"{re.escape(name)}-(\d{{3,}})")
    found = [path for path in Path(DEFAULT_PARENT).glob("*") if numbered.fullmatch(path.name)]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _new_record(name, facts):
    return {
        "schema": "dfc-numba/run", "schema_version": "1.1", "name": name, "status": "running", "stop_reason": "",
        "started": _now(), "ended": None, "seconds": 0.0, **facts, "resumed": 0, "earlier_sessions": [],
    }  # fmt: skip


def _resumed_record(record, before):
    """Return the record of a session that follows another record, which is kept in it."""
    before = before or {}
    session = {key: before[key] for key in SESSION if key in before}
    if session.get("status") in (None, "running"):
        session["status"] = KILLED
    sessions = [*before.get("earlier_sessions", []), session]
    name = before.get("name", record["name"])
    files = before.get("files", {})
    return {**record, "name": name, "resumed": len(sessions), "earlier_sessions": sessions, "files": files}


def _locked(path, wait):
    """Return the `Lock` of a run directory; wait this many seconds for another holder."""
    try:
        return Lock(path / LOCK_NAME, wait=wait)
    except BlockingIOError as error:
        raise ConfigurationError(
            f"{path} is in use by {error}; wait until it ends, or choose another directory with --out"
        ) from None
    except OSError as error:
        raise _not_writable(path, error) from None


def _claim(path, name):
    """Create the directory, and run.json in it, which no other run may have."""
    try:
        path = _next_free(name) if path is None else Path(path).expanduser()
        path.mkdir(parents=True, exist_ok=True)
        if holds_run(path):
            raise ConfigurationError(
                f"{path} holds a run, which is never overwritten; resume it with --resume, or choose another "
                "directory with --out"
            )
        refuse_links(path, OWN)
        with open(path / RUN_NAME, "x", encoding="utf-8"):
            return path
    except OSError as error:
        raise _not_writable(path or DEFAULT_PARENT, error) from None


def _not_writable(path, error):
    return ConfigurationError(
        f"cannot write to {path} ({error.strerror or error}); choose another directory with --out"
    )


def _next_free(name):
    """Create the first runs/<name>-NNN that does not exist, also where other processes do the same."""
    parent = Path(DEFAULT_PARENT)
    parent.mkdir(exist_ok=True)
    for number in count(1):
        path = parent / f"{name}-{number:03d}"
        if not path.exists():
            try:
                path.mkdir()
                return path
            except FileExistsError:
                continue  # another process was faster


def _plain(row):
    """Return a row with None for NaN and infinity, which JSON cannot express."""
    return {key: value if isfinite(value) else None for key, value in row.items()}


def _now():
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
