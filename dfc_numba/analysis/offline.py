"""Analysis of trajectories from the file alone: updates by any rule, convergence, residuals, statistics.

Functions take a `StoredRecord` of an open trajectory file, which they read a block at a time, or a `Trajectory`. They
compute in float64 with NumPy; where only some samples of a minibatch were stored, they are about these.
"""

from dataclasses import dataclass
from functools import partial, reduce
from typing import NamedTuple

import numpy as np

from dfc_numba.analysis.analysed_phase import as_phase
from dfc_numba.dynamics import plasticity
from dfc_numba.dynamics.plasticity import (
    READOUTS,
    SAMPLES,
    SIGMA_FLOOR,
    FeedbackUpdate,
    ForwardUpdate,
)
from dfc_numba.kernels.units import evaluate
from dfc_numba.model.activations import phi
from dfc_numba.model.recording import StoredUpdate
from dfc_numba.model.unit_formulas import NOISE_DRIVEN
from dfc_numba.storage.recipes import simulates, update_arrays
from dfc_numba.support.ranges import Positive, TimeConstant
from dfc_numba.support.validation import choice, number, silent

CONVERGED_FRACTION = 0.1  # of the initial error, below which a sample counts as converged


# --- updates -------------------------------------------------------------------------------------------------------------


@silent()
def forward_update(source, *, readout="average", rule="nonlinear_difference", samples="all"):
    """Return the forward update that a stored trajectory gives: that of `dfc_numba.forward_update`.

        Delta W_i = mean over t, b of (phi(v_i) - phi(v_ff_i)) r_{i-1}^T      (plasticity in DFC, Meulemans et al. 2021)

    It takes differences of stored voltages, and has their rounding: of a small nudge, stored in float32, little is left.

    Args:
        source: a `StoredRecord` or a `Trajectory`, with "v" and "v_ff"; "r" is made from v where it is missing.
        readout: "average" needs every time point, "final" the last one; "analytic" and "newton" need the recipe alone.
        rule, samples: as for `dfc_numba.forward_update`.

    Returns:
        a `ForwardUpdate` in float64, the mean over the stored samples.

    Raises:
        ValueError: for a variable or time points that are missing, or values that are not allowed.
    """
    choice("readout", readout, READOUTS)
    found = plasticity.find_rule("rule", rule)
    choice("samples", samples, SAMPLES)
    source = as_phase(source)
    if readout in plasticity.SOLVED:
        return plasticity.forward_update(
            source.network,
            source.x,
            source.target,
            source.controller,
            readout=readout,
            rule=rule,
            samples=samples,
        )
    return _forward_update(source, readout, found, _weight(source, samples))


@silent()
def feedback_update(
    source,
    *,
    scaling=False,
    high_pass=None,
    normalise=None,
    sigma_floor=SIGMA_FLOOR,
    feedback_rule=NOISE_DRIVEN,
):
    """Return the feedback update that a stored trajectory gives: that of `dfc_numba.feedback_update`.

        Delta Q_i = -k_i / sigma_i^2 mean over t, b of v_fb_i(t) u(t+1)^T

    Args:
        source: a `StoredRecord` or a `Trajectory`, with "v_fb" and "u" at every time point.
        scaling, high_pass, normalise, sigma_floor, feedback_rule: as for `dfc_numba.feedback_update`.

    Returns:
        a `FeedbackUpdate` in float64, the mean over the stored samples.

    Raises:
        ValueError, TypeError: for a variable or time points that are missing, or values that are not allowed.
    """
    source = as_phase(source)
    return _feedback_update(
        source, np.ones(source.count), scaling, high_pass, normalise, sigma_floor, feedback_rule
    )


@silent()
def described_update(source):
    """Return the update that the recipe describes (what the run made of this minibatch), from its trajectory.

    Returns:
        a `StoredUpdate` in float64; None if the recipe describes none, or one that no trajectory gives.

    Raises:
        ValueError, TypeError: for a variable or time points that are missing.
    """
    source = as_phase(source)
    if not simulates(source.recipe.update):
        return None
    options = dict(source.recipe.update)
    name = options.pop("function")
    weight = _weight(source, options.pop("samples", "all"))
    readout = options.pop("readout", "average")
    rule = plasticity.find_rule("rule", options.pop("rule", "nonlinear_difference"))
    parts = {}
    if name != "feedback_update":
        update = _forward_update(source, readout, rule, weight)
        parts |= {"weights": update.weights, "biases": update.biases}
    if name != "forward_update":
        parts["feedback"] = _feedback_update(source, weight, **{"scaling": False, **options}).feedback
    return StoredUpdate(**parts)


def update_deviations(record):
    """Return how far a run's applied update deviates from the one that its stored trajectory gives.

    Returns:
        dict of ||applied - recomputed|| / ||applied|| by the names "dW_1", "db_1", ..., "dQ_1", ...; None if the update was
        not stored, or is none that trajectories give.

    Raises:
        ValueError: if not all samples of the minibatch were stored, or not all time points or variables.
    """
    applied = update_arrays(record.update())
    samples, count = len(record["position"]) if applied else 0, len(record["sample_index"])
    if applied and samples < count:
        raise ValueError(
            f"the update is the mean over {count} samples, of which {samples} are stored; log all samples, or compute them "
            f"with `dfc replay --expand` and --samples {count}"
        )
    recomputed = update_arrays(described_update(record)) if applied else {}
    return {
        name: _relative_norm(array, recomputed[name]) for name, array in applied.items() if name in recomputed
    } or None


def _relative_norm(expected, found):
    expected = np.asarray(expected, np.float64)
    difference, scale = np.linalg.norm(found - expected), np.linalg.norm(expected)
    return float(difference / scale) if scale else float(difference)


def _weight(source, samples):
    """Return (B,) weights of the samples in a mean over all."""
    return source.flags("converged").astype(np.float64) if samples == "converged" else np.ones(source.count)


def _forward_update(source, readout, rule, weight):
    sizes, points = source.network.sizes, 0
    sums = [np.zeros((n, m)) for n, m in zip(sizes[1:], sizes[:-1], strict=True)]
    totals = [np.zeros(n) for n in sizes[1:]]
    for block in _blocks(source, readout):
        points += block.stop - block.start
        for i, (factor, below) in enumerate(_factors(source, block, readout, rule)):
            factor *= weight[:, np.newaxis]
            sums[i] += _products(factor, below)
            totals[i] += factor.sum(axis=(0, 1))
    count = points * source.count
    biases = None if source.network.biases is None else [total / count for total in totals]
    converged, diverged = (source.flags(name) for name in ("converged", "diverged"))
    return ForwardUpdate([total / count for total in sums], biases, converged, diverged)


def _blocks(source, readout):
    if readout == "final":
        source.require_last_step("the readout 'final'")
        return [slice(len(source.step) - 1, len(source.step))]
    source.require_every_step("the readout 'average'")
    return source.blocks()


def _factors(source, block, readout, rule):
    """Yield (postsynaptic factor, rate of the layer below) of every layer, (t, B, n_i) and (t, B, n_{i-1})."""
    below = source.x[np.newaxis]
    for layer, name in enumerate(source.network.activations, 1):
        v, v_ff = (source.read(variable, layer, block) for variable in ("v", "v_ff"))
        if readout == "final" and not rule.factor_is_linear:  # v_ff recomputed from the final rates
            now = below @ source.network.weights[layer - 1].T.astype(np.float64)
            now += 0.0 if source.network.biases is None else source.network.biases[layer - 1]
            v, v_ff = now + (v - v_ff), now
        symbols = plasticity.unit_symbols(
            name, v, v - v_ff, partial(source.read, "v_fb", layer, block),
            partial(source.read, "v", layer, slice(0, 1)), phi(name, v) - phi(name, v_ff),
        )  # fmt: skip
        factor = plasticity.postsynaptic_factor(rule, symbols).copy()
        yield factor, plasticity.presynaptic_factors(rule, [below])[0]
        if layer < len(source.network.weights):
            below = source.rates(layer, block)


def _products(left, right):
    """Return the sum over time points and samples of left right^T; either may be the same at all time points."""
    if len(left) != len(right):
        left, right = (one.sum(axis=0) if len(one) > 1 else one[0] for one in (left, right))
    return left.reshape(-1, left.shape[-1]).T @ right.reshape(-1, right.shape[-1])


def _feedback_update(
    source,
    weight,
    scaling=False,
    high_pass=None,
    normalise=None,
    sigma_floor=SIGMA_FLOOR,
    feedback_rule=NOISE_DRIVEN,
):
    rule = plasticity.find_rule("feedback_rule", feedback_rule, "feedback")
    source.require_every_step("the update of the feedback weights")
    divisors = plasticity.feedback_divisors(
        source.network, source.controller, scaling, normalise, sigma_floor
    )
    sums = [np.zeros(q.shape) for q in source.network.feedback]
    for block, u, slow in _controls(source, high_pass):
        signal = u - slow
        if rule.presynaptic_formula is not None:
            signal = np.broadcast_to(evaluate(rule.presynaptic_formula, {"u": u, "u_slow": slow}), u.shape)
        signal = signal * weight[:, np.newaxis]
        for i, name in enumerate(source.network.activations):
            sums[i] += _products(_feedback_factor(source, rule, i + 1, name, block), signal)
    count = source.controller.steps * source.count
    return FeedbackUpdate([total / (count * divisor) for total, divisor in zip(sums, divisors, strict=True)])


def _feedback_factor(source, rule, layer, activation, block):
    """Return the postsynaptic factor of the feedback weights of a layer, (t, B, n_i)."""
    if rule.name == NOISE_DRIVEN:
        return -source.read("v_fb", layer, block)
    v, v_ff = (source.read(variable, layer, block) for variable in ("v", "v_ff"))
    symbols = plasticity.unit_symbols(
        activation, v, v - v_ff, partial(source.read, "v_fb", layer, block),
        partial(source.read, "v", layer, slice(0, 1)),
    )  # fmt: skip
    return plasticity.postsynaptic_factor(rule, symbols)


def _controls(source, high_pass):
    """Yield (time points t, u(t+1), its slow part, which the high-pass filter subtracts, 0 without one)."""
    gain = None if high_pass is None else source.controller.dt / number("high_pass", high_pass, TimeConstant)
    slow = None
    for block in source.blocks(stop=len(source.step) - 1):
        u = source.read("u", None, slice(block.start + 1, block.stop + 1))
        slow_part = np.zeros_like(u)
        if gain is not None:
            for t, now in enumerate(u):
                slow = now.copy() if slow is None else gain * now + (1.0 - gain) * slow
                slow_part[t] = slow
        yield block, u, slow_part


# --- convergence ---------------------------------------------------------------------------------------------------------


def convergence_time(source, *, fraction=CONVERGED_FRACTION):
    """Return the time from which on the error of a sample stays below a fraction of the initial one.

    Args:
        source: a `StoredRecord` or a `Trajectory`, with "error".
        fraction: above 0.

    Returns:
        (B,) in units of tau_u, NaN for a sample whose last error is not below; of the stored time points.

    Raises:
        ValueError, TypeError: if the error was not stored, or for a fraction that is not allowed.
    """
    number("fraction", fraction, Positive)
    source = as_phase(source)
    error = source.read("error")
    outside = ~(error < fraction * error[0])  # NaN is outside
    after = len(error) - np.argmax(outside[::-1], axis=0)  # the point after the last one outside
    after[~outside.any(axis=0)] = 0
    return np.append(source.time, np.nan)[after]


@silent()
def steady_state_residual(source):
    """Return the distance of the last stored state from the steady state, where e = alpha u.

        rho = ||e - alpha u|| / ||r* - e(0)||

    For the error "difference" this is the residual that `converged` and `diverged` judge, since r* - e(0) is the
    feedforward output; for "softmax" it is the softmax of the output. With leak="integral", alpha is
    `Controller.steady_leak`.

    Args:
        source: a `StoredRecord` or a `Trajectory`, with "u", and "e" or the rates of the output layer.

    Returns:
        (B,)
    """
    source = as_phase(source)
    last = slice(len(source.step) - 1, None)
    start = source.target - source.errors(slice(0, 1))[0]
    remaining = source.errors(last)[0] - source.controller.steady_leak * source.read("u", None, last)[0]
    return np.linalg.norm(remaining, axis=1) / np.linalg.norm(start, axis=1)


@silent()
def layer_differences(source, *, samples=None):
    """Return ||phi(v_i) - phi(v_ff_i)|| of each layer over time, which drives learning of the forward weights.

    Args:
        source: a `StoredRecord` or a `Trajectory`, with "v" and "v_ff".
        samples: places among the stored samples, None for all.

    Returns:
        a list of (T, B), one for each layer.
    """
    source = as_phase(source)
    chosen = slice(None) if samples is None else list(samples)
    found = []
    for layer, name in enumerate(source.network.activations, 1):
        blocks = [
            [phi(name, source.read(variable, layer, block, chosen)) for variable in ("v", "v_ff")]
            for block in source.blocks()
        ]
        found.append(np.concatenate([np.linalg.norm(v - v_ff, axis=-1) for v, v_ff in blocks]))
    return found


# --- statistics ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Statistics:
    """A variable over time points and units, per sample: arrays (B,).

    Attributes:
        mean, std, least, greatest: of its numbers. rms: root mean square of its norm over time. last: norm in the end.
    """

    mean: np.ndarray
    std: np.ndarray
    least: np.ndarray
    greatest: np.ndarray
    rms: np.ndarray
    last: np.ndarray


@silent()
def statistics(source, name, layer=None):
    """Return `Statistics` of a variable, such as "u", "e", or "v_fb" of a layer (from 1).

    Raises:
        ValueError: if it was not stored.
    """
    source = as_phase(source)
    whole = reduce(_merged, (_moments(_values(source, name, layer, block)) for block in source.blocks()))
    std, rms = np.sqrt(whole.squares / whole.count), np.sqrt(whole.power / len(source.step))
    return Statistics(
        mean=whole.mean, std=std, least=whole.least, greatest=whole.greatest, rms=rms, last=whole.last
    )


class _Moments(NamedTuple):
    """Sums over time points and units, per sample; `squares` of deviations from the mean, `power` of the norm."""

    count: int  # type: ignore[assignment]  # not the method of a tuple
    mean: np.ndarray
    squares: np.ndarray
    least: np.ndarray
    greatest: np.ndarray
    power: np.ndarray
    last: np.ndarray


def _values(source, name, layer, block):
    """Return a variable over a block of time points, (t, B, n)."""
    values = source.errors(block) if name == "e" else source.read(name, layer, block)
    return values.reshape(*values.shape[:2], -1)


def _moments(values):
    mean, axes = values.mean(axis=(0, 2)), (0, 2)
    return _Moments(
        count=values.shape[0] * values.shape[2],
        mean=mean,
        squares=((values - mean[:, np.newaxis]) ** 2).sum(axis=axes),
        least=values.min(axis=axes),
        greatest=values.max(axis=axes),
        power=(values**2).sum(axis=axes),
        last=np.linalg.norm(values[-1], axis=-1),
    )


def _merged(a, b):
    """Return the moments of two parts of a trajectory together, of which b is the later one."""
    count, shift = a.count + b.count, b.mean - a.mean
    return _Moments(
        count=count,
        mean=a.mean + shift * b.count / count,
        squares=a.squares + b.squares + shift**2 * a.count * b.count / count,
        least=np.minimum(a.least, b.least),
        greatest=np.maximum(a.greatest, b.greatest),
        power=a.power + b.power,
        last=b.last,
    )
