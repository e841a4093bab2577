"""What a replay of a record needs: parameters, controller, inputs, target and noise of one minibatch."""

from dataclasses import dataclass, field

import numpy as np

from dfc_numba.noise import NoiseKey, as_key
from dfc_numba.storage import schema

PRECISE = ("float32", "float64")


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


def recipe_arrays(recipe):
    """The variables of a record that a recipe gives, by their names in the file; the parameters are apart."""
    count = len(recipe.x)
    arrays = {
        "inputs": _precise(recipe.x),
        "target": np.asarray(recipe.target, np.float64),
        "sample_index": np.full(count, -1)
        if recipe.indices is None
        else np.asarray(recipe.indices, np.int64),
        **{name: np.int64(getattr(recipe, name)) for name in ("epoch", "minibatch", "number")},
        "minibatch_size": np.int64(count),
        **_noise_arrays(recipe.noise, count),
    }
    return arrays if recipe.labels is None else arrays | {"labels": np.asarray(recipe.labels, np.float64)}


def _precise(x):
    """The array as float32 if it is, else as float64."""
    x = np.asarray(x)
    return x if x.dtype.name in PRECISE else x.astype(np.float64)


def _noise_arrays(noise, count):
    key = as_key(noise)
    if key is None:
        kind = schema.NO_NOISE if noise is None else schema.GIVEN_NOISE
        key, draws = NoiseKey(0), noise
    else:
        kind, draws = schema.KEYED_NOISE, None
    numbers = np.full(count, -1) if key.samples is None else np.asarray(key.samples, np.int64)
    arrays = {
        "noise_kind": np.int8(kind), "noise_seed": np.uint64(key.seed),
        "noise_minibatch": np.uint64(key.minibatch), "noise_sample": numbers,
    }  # fmt: skip
    draws = [_precise(array).reshape(-1, *np.shape(array)[-2:]) for array in draws or []]
    return arrays | schema.by_layer("draws", draws)


def noise_of(read, depth):
    """The noise of a record: None, a `NoiseKey`, or a list of draws; `read(name)` gives a variable of the record."""
    kind = int(read("noise_kind"))
    if kind == schema.NO_NOISE:
        return None
    if kind == schema.KEYED_NOISE:
        numbers = read("noise_sample")
        return NoiseKey(
            int(read("noise_seed")), int(read("noise_minibatch")), None if (numbers < 0).all() else numbers
        )
    draws = [read(f"draws_{layer}") for layer in range(1, depth + 1)]
    return [array[0] if len(array) == 1 else array for array in draws]


def update_arrays(update):
    """The variables of a record that an update gives: anything with some of the lists `weights`, `biases`, `feedback`."""
    parts = (schema.by_layer(name, getattr(update, kind, None)) for kind, name in schema.UPDATES.items())
    return {name: array for part in parts for name, array in part.items()}
