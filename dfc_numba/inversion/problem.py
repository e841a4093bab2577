"""The arguments of every rule of backward errors: the arrays of a network's layers, checked and of one dtype."""

from dataclasses import dataclass

import numpy as np

from dfc_numba.support.validation import as_array, floats, samples

WITHOUT_FEEDBACK = ("bp", "pbp")


@dataclass(frozen=True)
class Problem:
    """A network's matrices and a minibatch's errors; layers i = 1..L, hidden ones 1..L - 1, lists are 0-based.

    Attributes:
        weights: W_2 .. W_L, list of (n_{i+1}, n_i); W_1 takes no part.
        feedback: one matrix per hidden layer, or a single one in a list, see `backward_errors`; empty without.
        derivatives: phi' of the hidden layers, list of (B, n_i).
        delta_out: (B, n_L).
    """

    weights: list
    feedback: list
    derivatives: list
    delta_out: np.ndarray


def check(weights, feedback, derivatives, delta_out, rule):
    """Return the `Problem` of the arguments of `backward_errors`, in float32 if all arrays are, else in float64.

    Raises:
        ValueError, TypeError: for shapes that do not fit, or numbers that are not finite.
    """
    weights = _matrices("weights", weights)
    if len(weights) < 2:
        raise ValueError(
            f"weights holds {len(weights)} matrix; at least two are needed: without a hidden layer nothing is inverted"
        )
    feedback = [] if rule in WITHOUT_FEEDBACK else _feedback_matrices(feedback, rule)
    sizes = _sizes(weights)
    derivatives = _derivatives(derivatives, sizes)
    delta_out = as_array("delta_out", delta_out)
    dtype = _common_dtype([*weights, *feedback, *derivatives, delta_out])
    delta_out = samples("delta_out", delta_out, sizes[-1], dtype=dtype)
    slopes = [(len(delta_out), n) for n in sizes[:-1]]
    pairs = list(zip(sizes[1:], sizes[:-1], strict=True))
    return Problem(
        weights=_floats("weights", weights[1:], pairs, dtype, first=1),
        feedback=_floats("feedback", feedback, _feedback_shapes(feedback, sizes, rule), dtype),
        derivatives=_floats("derivatives", derivatives or map(np.ones, slopes), slopes, dtype),
        delta_out=delta_out,
    )


def _floats(name, arrays, shapes, dtype, first=0):
    """Return the arrays of a list, checked; `first` is the number of the first of them."""
    pairs = enumerate(zip(arrays, shapes, strict=True), first)
    return [floats(f"{name}[{i}]", array, shape, dtype=dtype) for i, (array, shape) in pairs]


def _matrices(name, given):
    """Return a list of arrays; a single matrix stands for a list of one."""
    if isinstance(given, np.ndarray) and given.ndim == 2:
        given = [given]
    if isinstance(given, str) or not hasattr(given, "__len__"):
        raise TypeError(f"{name} must be a list of matrices, not {given!r:.60}")
    return [as_array(f"{name}[{i}]", matrix) for i, matrix in enumerate(given)]


def _feedback_matrices(feedback, rule):
    if feedback is None:
        raise ValueError(f"rule {rule!r} needs feedback matrices; feedback is None")
    return _matrices("feedback", feedback)


def _sizes(weights):
    """Return [n_1, ..., n_L]; the inner dimensions are compared when the matrices are."""
    for i, w in enumerate(weights):
        if w.ndim != 2 or 0 in w.shape:
            raise ValueError(f"weights[{i}] has shape {w.shape}; expected a matrix (n_{i + 1}, n_{i})")
    return [len(w) for w in weights]


def _derivatives(derivatives, sizes):
    if derivatives is None:
        return []
    found = _matrices("derivatives", derivatives)
    if len(found) != len(sizes) - 1:
        raise ValueError(
            f"derivatives holds {len(found)} arrays; {len(sizes) - 1} are needed, one (B, n_i) per hidden layer"
        )
    return found


def _feedback_shapes(feedback, sizes, rule):
    """Return shapes of the feedback matrices of a rule, if there are as many as it needs."""
    above = [sizes[-1]] * (len(sizes) - 1) if rule == "dfa" else sizes[1:]
    shapes = [(sizes[0], sizes[-1])] if rule == "sldi" else list(zip(sizes[:-1], above, strict=True))
    if rule in WITHOUT_FEEDBACK:
        return []
    if len(feedback) != len(shapes):
        raise ValueError(
            f"feedback holds {len(feedback)} matrices; {len(shapes)} are needed, of the shapes {shapes}"
        )
    return shapes


def _common_dtype(arrays):
    """Return float32 if all arrays are, else float64."""
    return np.dtype("float32" if all(a.dtype == np.float32 for a in arrays) else "float64")
