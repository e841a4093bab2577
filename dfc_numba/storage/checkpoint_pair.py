"""The checkpoints of a run directory: the newest and the one before, which serves when the newest is damaged."""

import os
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from dfc_numba.errors import CheckpointError
from dfc_numba.storage import checkpoint

NEWEST, PREVIOUS, DAMAGED = "checkpoint.h5", "checkpoint_previous.h5", "checkpoint_damaged.h5"
FILES = (NEWEST, PREVIOUS)
MINUTES = 10.0


@dataclass
class CheckpointPair:
    """Writes the checkpoints of a run every so often, and finds the one to continue from.

    Attributes:
        directory: the run directory.
        minutes: time between two checkpoints, at most and within an epoch.
        written, seconds: how many this object has written, and how long that took.
    """

    directory: Path
    minutes: float = MINUTES
    written: int = 0
    seconds: float = 0.0
    _last: float = field(default_factory=time.monotonic)

    def write(self, trainer):
        """Writes a checkpoint and keeps the last one.

        Raises:
            CheckpointError: if it cannot be written; those that there are stay as they were.
        """
        start = time.monotonic()
        trainer.settle()
        try:
            checkpoint.save(trainer, self.directory / NEWEST, keep=PREVIOUS)
        except OSError as error:
            raise CheckpointError(
                f"{self.directory / NEWEST} cannot be written ({error.strerror or error}); the last checkpoint is as it was"
            ) from error
        self._last = time.monotonic()
        self.written, self.seconds = self.written + 1, self.seconds + self._last - start

    def write_if_due(self, trainer):
        """Writes a checkpoint if the last one is long enough ago."""
        if time.monotonic() >= self._last + 60 * self.minutes:
            self.write(trainer)

    def find(self):
        """The newest `Checkpoint` that can be read, or None if there are no files.

        If it is the previous one, a warning says why; a damaged newest one is renamed, so that the next one to be
        written does not push out the sound one.

        Raises:
            CheckpointError: if there are files, but none can be read. ValueError: if the newest is of a newer version.
        """
        newest, previous = (self.directory / name for name in FILES)
        problems = []
        for path in (newest, previous):
            try:
                found = checkpoint.load(path)
            except FileNotFoundError:
                problems.append(f"{path} is missing")
            except OSError as error:
                problems.append(str(error))
            else:
                self._tell_of(problems, path)
                return found
        if not newest.exists() and not previous.exists():
            return None
        raise CheckpointError(
            f"no checkpoint to continue from: {'; '.join(problems)}; train anew in another directory with --out"
        )

    def _tell_of(self, problems, path):
        newest = self.directory / NEWEST
        if problems and newest.exists():
            os.replace(newest, self.directory / DAMAGED)
            problems = [f"{problems[0]}, now {DAMAGED}"]
        if problems:
            warnings.warn(f"{problems[0]}; continuing from {path}, which is older", stacklevel=3)
