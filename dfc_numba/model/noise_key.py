"""The source of a simulation's noise: a key for the generator in the kernels, or given draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from dfc_numba.support.array_types import Array, ArrayLike, LayersLike
from dfc_numba.support.shapes import html_repr, short_repr
from dfc_numba.support.validation import as_array, floats, whole_number


@dataclass(frozen=True)
class NoiseKey:
    """Names the standard normal draws of one minibatch.

    A draw is a function of (seed, minibatch, sample, step, layer, unit) alone, so it does not depend on threads, on the
    other samples, or on what ran before, and a replay needs only the key.

    Args:
        seed: any whole number from 0 to 2**64 - 1.
        minibatch: number of the minibatch, 0 to 2**64 - 1.
        samples: (B,) whole numbers that tell the samples apart, 0 to 2**32 - 1; None numbers them 0, 1, ...
    """

    __repr__, _repr_html_ = short_repr, html_repr

    seed: int
    minibatch: int = 0
    samples: ArrayLike | None = None

    def __post_init__(self):
        for name in ("seed", "minibatch"):
            whole_number(f"NoiseKey.{name}", getattr(self, name))
        if self.samples is not None:
            _checked_samples(self.samples)

    def word(self) -> np.uint64:
        """Return the 64-bit key of the generator: seed and minibatch, mixed."""
        words = [half for number in (int(self.seed), int(self.minibatch)) for half in divmod(number, 2**32)]
        return np.random.SeedSequence(words).generate_state(1, np.uint64)[0]

    def numbers(self, count: int) -> Array:
        """Return the numbers of `count` samples."""
        if self.samples is None:
            return np.arange(count, dtype=np.uint64)
        numbers = _checked_samples(self.samples)
        if numbers.shape != (count,):
            raise ValueError(f"NoiseKey.samples has shape {numbers.shape}; expected {count} whole numbers")
        return numbers


def _checked_samples(samples):
    """Return the numbers of samples as an array (B,) of unsigned integers."""
    numbers = as_array("NoiseKey.samples", samples)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise ValueError(
            f"NoiseKey.samples has shape {numbers.shape}, dtype {numbers.dtype}; expected one axis of whole numbers"
        )
    if len(numbers) and (numbers.min() < 0 or numbers.max() >= 2**32):
        raise ValueError(
            f"NoiseKey.samples ranges from {numbers.min()} to {numbers.max()}; 0 to 2**32 - 1 is allowed"
        )
    return numbers.astype(np.uint64)


Noise: TypeAlias = int | NoiseKey | LayersLike | None


def as_key(noise):
    """Return a NoiseKey for an int seed or a NoiseKey; None for anything else."""
    if isinstance(noise, NoiseKey):
        return noise
    if isinstance(noise, int | np.integer) and not isinstance(noise, bool):
        return NoiseKey(int(noise))
    return None


def given_draws(noise, shape, sizes, dtype="float64"):
    """Return given draws, checked: one array (*shape, n_i) per layer, where shape is (T, B) or (B,)."""
    if not isinstance(noise, list | tuple) or len(noise) != len(sizes) - 1:
        dimensions = "T, B, n_i" if len(shape) == 2 else "B, n_i"
        raise TypeError(
            f"noise is {type(noise).__name__}; expected an int seed, a NoiseKey, or a list of {len(sizes) - 1} arrays "
            f"({dimensions})"
        )
    return [
        floats(f"noise[{i}]", a, (*shape, n), dtype=dtype)
        for i, (a, n) in enumerate(zip(noise, sizes[1:], strict=True))
    ]
