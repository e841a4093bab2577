"""Recipes and updates as variables of a record, and back."""

import numpy as np

from dfc_numba.model.noise import NoiseKey, as_key
from dfc_numba.storage import schema

PRECISE = ("float32", "float64")


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
