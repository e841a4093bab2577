"""The errors that a caller may want to tell from a plain `ValueError`."""

from __future__ import annotations

from collections.abc import Iterable


class DivergenceError(ArithmeticError):
    """A simulation or a parameter became non-finite.

    Attributes:
        layer: number of the layer (1 = first hidden layer), or None where it concerns no single layer.
        epoch, minibatch: where in training it happened, or None outside training.
        samples: indices of the samples concerned within the minibatch.
    """

    def __init__(
        self,
        message: str,
        *,
        layer: int | None = None,
        epoch: int | None = None,
        minibatch: int | None = None,
        samples: Iterable[int] = (),
    ) -> None:
        super().__init__(message)
        self.layer = layer
        self.epoch = epoch
        self.minibatch = minibatch
        self.samples = tuple(samples)


class DivergenceWarning(RuntimeWarning):
    """A feedback phase diverged although all numbers may be finite; the message says for how many samples, and the remedy."""


class ConfigurationError(ValueError):
    """A configuration that cannot be honoured; the message names the key, the value and what is allowed."""


class DamagedFileError(OSError):
    """A part of a file cannot be read, although the file could be opened; the message says where."""


class UnusableFileError(ValueError):
    """A file holds something else than it should, or what is not read from files of others; the message says what."""


class MissingExtra(ImportError):
    """A library that an extra of the package installs is missing; the message names the extra."""


class LogError(OSError):
    """The trajectories of a run cannot be written; the message says why."""


class CheckpointError(OSError):
    """A checkpoint that cannot be written, or none that a run could be continued from; the message says why."""


class Interrupted(KeyboardInterrupt):
    """A signal came before the training of a run began; the run can be resumed."""
