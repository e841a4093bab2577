"""Feedback matrices of dynamic inversion: random, transposed forward weights, and optimised for stability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Literal

import numpy as np
from scipy.linalg import eig

from dfc_numba.inversion.loop_stability import RULES, distances, excess, feedback_loops, spectrum
from dfc_numba.support.array_types import Array, Layers, LayersLike
from dfc_numba.support.ranges import (
    FeedbackScale,
    InitialRange,
    StabilisingIterations,
    StabilisingRate,
    TimeStep,
)
from dfc_numba.support.threads import one_thread
from dfc_numba.support.validation import choice, finite_result, number, seeds, silent, whole_number

KINDS = ("random", "transpose", "stable")
MARGIN = 0.01  # how far from the border of stability the optimisation goes
LEAST = 20  # it makes a 20th of its iterations at least


@dataclass(frozen=True)
class Stabilised:
    """The end of `stabilised_feedback` for one loop.

    Attributes:
        feedback: B.
        excess: what was lowered, before and after each iteration: the abscissa, or with dt the radius minus 1, without the
            modes that no hidden layer sees.
        stable: whether it is below 0 at the end.
        reason: why no iteration was made, empty otherwise.
    """

    feedback: Array
    excess: tuple[float, ...]
    stable: bool
    reason: str = ""


@silent()
def initial_feedback(
    weights: LayersLike,
    kind: Literal["random", "transpose", "stable"],
    *,
    loop: Literal["sequential", "single"] = "sequential",
    seed: int | Sequence[int] = 0,
    bound: float = 0.5,
    scale: float = -1.0,
    **descent: Any,
) -> Layers:
    """Create feedback matrices, as `backward_errors` takes them.

    Args:
        weights: W_1 .. W_L, list of (n_i, n_{i-1}).
        kind: "random": uniform in +-bound; "transpose": scale W_{i+1}^T, for loop="single" scale W_2^T .. W_L^T; "stable":
            from "random" on by `stabilised_feedback` with `descent`, its alpha (0 unless given), rate and iterations.
        loop: "sequential" (rules "di", "ndi", "fa") or "single" ("sldi").
        seed: of the random numbers, a whole number or a list of them.

    Returns:
        list of (n_i, n_{i+1}), one per hidden layer; for loop="single" a list with one (n_1, n_L).

    Raises:
        ValueError, TypeError: for unknown names, or numbers out of range. RuntimeError: if "stable" cannot be reached, or
            was not after all iterations.
    """
    choice("kind", kind, KINDS)
    transposed = _transposed(weights, choice("loop", loop, tuple(RULES)))
    if kind == "transpose":
        number("scale", scale, FeedbackScale)
        return [finite_result("scale W^T", scale * w) for w in transposed]
    number("bound", bound, InitialRange)
    rng = np.random.default_rng(seeds("seed", seed))
    drawn = [rng.uniform(-bound, bound, w.shape) for w in transposed]
    if kind == "random":
        return drawn
    return [
        _reached(one, i) for i, one in enumerate(stabilised_feedback(weights, drawn, loop=loop, **descent), 1)
    ]


def restabilised_feedback(
    weights, feedback, *, alpha=0.0, dt=None, loop="sequential", rate=0.05, iterations=200
):
    """Return the feedback matrices, with those of unstable loops made stable; arguments as for `stabilised_feedback`.

    Raises:
        ValueError, TypeError: as for `stabilised_feedback`. RuntimeError: for a loop that cannot become stable, or is not
            after all iterations.
    """
    loops = _checked(weights, feedback, alpha, dt, loop, rate, iterations)
    matrices = [feedback] if isinstance(feedback, np.ndarray) and feedback.ndim == 2 else list(feedback)
    with one_thread():
        for i, one in enumerate(loops):
            if excess(one.modes(dt)[0], dt) >= 0:
                matrices[i] = _reached(_descended(one, dt, rate, iterations), i + 1)
    return matrices


def _reached(found, number):
    """Return the feedback of a `Stabilised`, which must be stable."""
    if found.stable:
        return found.feedback
    if found.reason:
        raise RuntimeError(f"the feedback of loop {number} cannot become stable: {found.reason}")
    raise RuntimeError(
        f"the feedback of loop {number} is not stable after {len(found.excess) - 1} iterations; try more of them, another "
        "rate or seed, or -W^T, which is always stable in continuous time"
    )


def _transposed(weights, loop):
    """Return W_{i+1}^T of the hidden layers; for a single loop W_2^T .. W_L^T."""
    above = [np.asarray(w, np.float64).T for w in weights[1:]]
    return above if loop == "sequential" else [reduce(np.matmul, above)]


@silent()
def stabilised_feedback(
    weights: LayersLike,
    feedback: LayersLike,
    *,
    alpha: float = 0.0,
    dt: float | None = None,
    loop: Literal["sequential", "single"] = "sequential",
    rate: float = 0.05,
    iterations: int = 200,
) -> list[Stabilised]:
    """Return feedback matrices that make the loops of dynamic inversion stable, by descending along the spectral abscissa.

        B <- B - rate ds/dB,   ds/dB = Re(c conj(u) v^T) / (u^H v)     (Podlaski & Machens 2020; its eigenvector form)

    s is the largest real part of the rates, or with dt the largest |z| of the Euler step; u, v are the left and right
    eigenvectors of that mode's gain mu, brought to B's two ends, and c is what a change of mu changes it by. A loop is done
    at s < -0.01 (with dt: |z| < 0.99), not before a 20th of the iterations and in any case after all of them: since B
    moves from one critical mode to the next, the descent is not monotonic. Modes that no hidden layer sees do not count, and
    B keeps them out of sight: where it lacks rank, it moves within its rows.

    No iteration is made without a leak where B has more rank than the smallest layer has units: the hidden layers then see
    errors that the weights cannot make, and that add up for ever.

    Args:
        weights: W_1 .. W_L, list of (n_i, n_{i-1}). feedback, alpha, loop: see `inversion_stability`.
        dt: None for continuous time, else that of the Euler steps.
        rate: length of a step along the gradient. iterations: the most there are, a whole number.

    Returns:
        list of `Stabilised`, one per loop.

    Raises:
        ValueError, TypeError: as for `inversion_stability`.
    """
    loops = _checked(weights, feedback, alpha, dt, loop, rate, iterations)
    with one_thread():
        return [_descended(one, dt, rate, iterations) for one in loops]


def _checked(weights, feedback, alpha, dt, loop, rate, iterations):
    """Return the `FeedbackLoop`s of the arguments of `stabilised_feedback`, which have to be allowed."""
    number("rate", rate, StabilisingRate)
    whole_number("iterations", iterations, StabilisingIterations)
    if dt is not None:
        number("dt", dt, TimeStep)
    return feedback_loops(weights, feedback, alpha=alpha, loop=loop)


def _descended(given, dt, rate, iterations):
    """Return the `Stabilised` of one `FeedbackLoop`."""
    loop, rows = given.observed()
    worst, gradient = excess_and_gradient(loop, dt)
    history = [worst]
    if given.drifts:
        return Stabilised(given.feedback, tuple(history), False, _drift(given))
    while len(history) <= iterations // LEAST or (worst > -MARGIN and len(history) <= iterations):
        moved = replace(loop, feedback=loop.feedback - rate * gradient)
        if not (gradient.any() and np.isfinite(moved.feedback).all()):
            break  # the critical mode is a leak alone; or it has merged with another, and has no gradient
        loop = moved
        worst, gradient = excess_and_gradient(loop, dt)
        history.append(worst)
    feedback = _in_rows(loop.feedback, rows)
    seen, _ = replace(given, feedback=feedback).modes(dt)
    return Stabilised(feedback, tuple(history), excess(seen, dt) < 0)


def _drift(loop):
    """Return what holds a loop that `drifts`, and the remedy."""
    units = min(loop.sizes)
    return (
        f"it has rank {loop.rank} and the smallest layer {units} units, so that hidden layers see {loop.rank - units} modes "
        f"of the errors above that only a leak lets decay; choose alpha > 0, or feedback of rank {units} at most, as the "
        "transposed weights have"
    )


def excess_and_gradient(loop, dt=None):
    """Return (s, ds/dB) of a `FeedbackLoop`, see `stabilised_feedback`; with dt s is the largest |z| minus 1.

    The gradient is zero where s is that of a leak alone, and within B's rows where B lacks rank, see `observed`.
    """
    fixed = excess(loop.surplus(dt)[0], dt)
    if loop.rank == 0:
        return fixed, np.zeros_like(loop.feedback)
    observed, rows = loop.observed()
    gains, left, right = eig(observed.turn, left=True, right=True)
    modes, slopes = spectrum(gains, *loop.equation(dt))
    sizes = distances(modes, dt)
    k, mode = np.unravel_index(np.argmax(sizes), sizes.shape)
    if sizes[k, mode] < fixed:
        return fixed, np.zeros_like(loop.feedback)
    slope = (
        slopes[k, mode] if dt is None else slopes[k, mode] * modes[k, mode].conj() / np.abs(modes[k, mode])
    )
    lower, upper = observed.halves
    u, v = left[:, k], right[:, k]
    with np.errstate(divide="ignore", invalid="ignore"):
        gradient = np.real(slope / np.vdot(u, v) * np.outer(lower.T @ u.conj(), upper @ v))
    return float(sizes[k, mode]), _in_rows(gradient, rows)


def _in_rows(matrix, rows):
    """Return a matrix of B's shape from that of the loop that `FeedbackLoop.observed` gives."""
    return matrix if rows is None else matrix @ rows
