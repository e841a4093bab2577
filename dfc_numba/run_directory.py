"""The directory of a run; each file is written as a whole or not at all.

config.toml         the configuration as resolved; `dfc train config.toml` repeats the run
run.json            environment, status, reason of the end, times, results
metrics.csv         one row per epoch
weights_best.h5     the network of the best epoch
weights_last.h5     the network at the end, for now of the last complete epoch
"""

import csv
import io
import json
import time
from datetime import datetime, timezone
from itertools import count
from math import isnan
from pathlib import Path

from dfc_numba.config_file import to_toml
from dfc_numba.errors import ConfigurationError
from dfc_numba.files import write_text

SCORES = [f"{split}_{score}" for split in ("train", "val", "test") for score in ("loss", "accuracy")]
METRICS = ("epoch", *SCORES, "seconds")
CONFIG_NAME, RUN_NAME, METRICS_NAME = "config.toml", "run.json", "metrics.csv"
BEST_NAME, LAST_NAME = "weights_best.h5", "weights_last.h5"
FILES = (CONFIG_NAME, RUN_NAME, METRICS_NAME, BEST_NAME, LAST_NAME)
DEFAULT_PARENT = "runs"


class RunDirectory:
    """Writes the directory of one run; an observer of the trainer.

    A directory belongs to one run: `create` claims it by creating run.json, which must not exist before.

    Attributes:
        path: the directory.
        record: the content of run.json, a dict of plain values.
        rows: the rows of metrics.csv.
    """

    def __init__(self, path, record):
        self.path = Path(path)
        self.record = record
        self.rows = []
        self._started = time.monotonic()
        self._trainer = None

    @classmethod
    def create(cls, config, *, path=None, name="run", **facts):
        """Claims a new directory and writes configuration, run.json and an empty metrics.csv into it.

        Args:
            config: the resolved `Config`.
            path: the directory; None for the first free runs/<name>-NNN.
            name: name of the run.
            facts: further entries of run.json, such as the command line and the environment.

        Raises:
            ConfigurationError: the directory holds a run already, or cannot be written to.
        """
        path = _claim(path, name)
        record = {
            "schema": "dfc-numba/run",
            "schema_version": "1.0",
            "name": name,
            "status": "running",
            "stop_reason": "",
        }
        directory = cls(path, {**record, "started": _now(), "ended": None, "seconds": 0.0, **facts})
        write_text(
            path / CONFIG_NAME,
            to_toml(config, f"{name}: the configuration as resolved; `dfc train` takes this file"),
        )
        directory._write_metrics()
        directory._write_record()
        return directory

    def discard(self):
        """Removes what `create` wrote, for a run that never started."""
        for name in (CONFIG_NAME, METRICS_NAME, RUN_NAME):
            (self.path / name).unlink(missing_ok=True)
        try:
            self.path.rmdir()
        except OSError:
            pass  # it holds something else, which is not ours to remove

    def on_start(self, trainer):
        """Keeps the trainer, whose networks are saved later."""
        self._trainer = trainer

    def on_epoch(self, row):
        """Adds a row to metrics.csv, and saves the network, and the best one if it changed."""
        self.rows.append(row)
        self._write_metrics()
        self._trainer.network.save(self.path / LAST_NAME)
        if self._trainer.counters.best_epoch == row["epoch"]:
            self._trainer.best_network.save(self.path / BEST_NAME)

    def on_end(self, outcome):
        """Saves an interrupted network (a diverged one would replace a sound one); closes run.json."""
        if outcome.status == "interrupted":
            self._trainer.network.save(self.path / LAST_NAME)
        results = {"epochs": outcome.epochs, "best_epoch": outcome.best_epoch}
        if self.rows:
            results["last"] = _plain(self.rows[-1])
            results["best"] = _plain(
                next((row for row in self.rows if row["epoch"] == outcome.best_epoch), self.rows[-1])
            )
        self.close(outcome.status, outcome.message, results=results)

    def close(self, status, stop_reason, **facts):
        """Writes how the run ended into run.json."""
        seconds = round(time.monotonic() - self._started, 3)
        self.record.update(status=status, stop_reason=stop_reason, ended=_now(), seconds=seconds, **facts)
        self._write_record()

    def _write_metrics(self):
        text = io.StringIO()
        writer = csv.DictWriter(text, METRICS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path / METRICS_NAME, text.getvalue())

    def _write_record(self):
        write_text(self.path / RUN_NAME, json.dumps(self.record, indent=2) + "\n")


def _claim(path, name):
    """Creates the directory, and run.json in it, which no other run may have."""
    try:
        path = _next_free(name) if path is None else Path(path)
        path.mkdir(parents=True, exist_ok=True)
        if any((path / file).exists() for file in FILES):
            raise ConfigurationError(
                f"{path} holds a run, which is never overwritten; choose another directory with --out"
            )
        with open(path / RUN_NAME, "x", encoding="utf-8"):
            return path
    except OSError as error:
        raise ConfigurationError(
            f"cannot write to {path or DEFAULT_PARENT} ({error.strerror}); choose another directory with "
            "--out"
        ) from None


def _next_free(name):
    """Creates the first runs/<name>-NNN that does not exist, also where other processes do the same."""
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
    """A row with NaN, which JSON has no word for, as None."""
    return {key: None if isnan(value) else value for key, value in row.items()}


def _now():
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
