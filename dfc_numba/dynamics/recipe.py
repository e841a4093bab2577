"""What determines a simulated minibatch: parameters, controller or inversion, inputs, target and noise; what is made of it.

`Storable` is what recorded trajectories have in common.
"""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that determines a simulated minibatch, and where in a run it was met.

    Attributes:
        network: the `Network` before the update. controller: the `Controller`; inversion: the `Inversion`. One of them, or
            none where nothing is simulated.
        x: inputs (B, n_0). target: output target r*, (B, n_L), float64; for an inversion what the outputs should be.
        noise: None, an int seed, a `NoiseKey`, or a list of draws (T, B, n_i), for the one-shot rule (B, n_i).
        labels: (B, n_L) what the samples should give, where that is known.
        indices: (B,) which samples of the training set these are, where they come from one.
        phase: "simulation", or the phase of training: "pretraining", "feedback", "forward", "extra feedback".
        epoch: from 1. minibatch: number in its pass, from 1. number: running number in the run, from 0.
        update: options of the update that was made of it, as plain values; they are the same for all records of a phase.
    """

    network: object
    x: np.ndarray
    target: np.ndarray
    controller: object = None
    inversion: object = None
    noise: object = None
    labels: np.ndarray | None = None
    indices: np.ndarray | None = None
    phase: str = "simulation"
    epoch: int = 0
    minibatch: int = 0
    number: int = 0
    update: dict = field(default_factory=dict)

    @property
    def dynamics(self):
        """The options of what is simulated, a `Controller` or an `Inversion`; None where nothing is."""
        return self.inversion if self.controller is None else self.controller


@dataclass(frozen=True, kw_only=True)
class StoredUpdate:
    """An update per unit learning rate: lists with an array per layer, None for what did not learn."""

    weights: list | None = None
    biases: list | None = None
    feedback: list | None = None


class Storable:
    """A recorded trajectory, which goes into an HDF5 file and comes back as the same bits."""

    def first_layer(self, name):
        """Number of the layer, from 1, of the first array of a list."""
        return 1

    def save(self, path, *, compression="none", dtype=None):
        """Write the trajectory, with what it was made of, to an HDF5 file; an older file of that name is replaced.

        Args:
            compression: "none", "gzip", "zstd" or "blosc". The latter two need the extra `compression`.
            dtype: "float32" or "float64", to store the variables in; None stores the same bits.

        Raises:
            OSError: if the file cannot be written. ValueError: for an unknown compression or dtype.
        """
        from dfc_numba.storage.writer import save

        save(self, path, compression=compression, dtype=dtype)

    @classmethod
    def load(cls, path, *, phase=None, record=None):
        """Read a trajectory, from a file that `save` wrote or from a record of any trajectory file.

        Args:
            path: of a file or run directory. phase: name of a phase, if it holds several.
            record: number of the record in this phase, from 0, if it holds several; -1 is the last one.

        Raises:
            OSError: if the file cannot be read, or is damaged. ValueError: for a file of another kind, or several records
                of which none is chosen.
        """
        from dfc_numba.storage.reader import load

        return load(path, cls, phase=phase, record=record)
