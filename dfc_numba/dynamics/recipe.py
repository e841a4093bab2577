"""What determines a simulated minibatch: parameters, controller, inputs, target and noise; and the update made of it."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that determines a simulated minibatch, and where in a run it was met.

    Attributes:
        network: the `Network` before the update. controller: the `Controller`, None where nothing is simulated.
        x: inputs (B, n_0). target: output target r*, (B, n_L), float64.
        noise: None, an int seed, a `NoiseKey`, or a list of draws (T, B, n_i), for the one-shot rule (B, n_i).
        labels: (B, n_L) what the samples should give, where that is known.
        indices: (B,) which samples of the training set these are, where they come from one.
        phase: "simulation", or the phase of training: "pretraining", "feedback", "forward", "extra feedback".
        epoch: from 1. minibatch: number in its pass, from 1. number: running number in the run, from 0.
        update: options of the update that was made of it, as plain values; they are the same for all records of a phase.
    """

    network: object
    controller: object
    x: np.ndarray
    target: np.ndarray
    noise: object = None
    labels: np.ndarray | None = None
    indices: np.ndarray | None = None
    phase: str = "simulation"
    epoch: int = 0
    minibatch: int = 0
    number: int = 0
    update: dict = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StoredUpdate:
    """An update per unit learning rate: lists with an array per layer, None for what did not learn."""

    weights: list | None = None
    biases: list | None = None
    feedback: list | None = None
