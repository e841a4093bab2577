"""The expected update of the feedback weights: what `feedback_update` gives on average over the noise, without sampling.

    Delta Q_i = -k_i / max(sigma_i, floor)^2 mean over t, b of v_fb_i(t) u(t+1)^T       (noise-driven rule, Meulemans et al. 2021)

is quadratic in the noise. Where the noise is small, the network is linear in it, and the mean over all draws has a closed form.
All layers share tau_v and tau_A, so what lies between a layer and the output is a scalar filter, and everything else happens in
the n_L dimensions of the control signal. With J_i = d r_L / d v_i at the feedforward state (d softmax(r_L) / d v_i for the
softmax error), * a convolution in time, and the output as target,

    r_L - r_L(0) = sum_i F_i * J_i v_fb_i      v_fb_i = Q_i p + sigma_i nu * xi_i      p = g * u      u = -c * (r_L - r_L(0))

xi_i are the draws, independent in time and between units. Closing the loop gives the response P of u to an impulse added to it,
and from it that of u and p to the draws:

    P = I delta - sum_i (c * g * F_i) * J_i Q_i P      R_i = -(c * nu * F_i) * P      R^p_i = g * R_i      R^u_i = hp * R_i

so that for each sample, with weight[m] = (steps - 1 - m) / steps, the share of time points at which a draw is m steps old,

    E mean_t v_fb_i(t) u(t+1)^T = sigma_i^2 J_i^T H_i^T + Q_i S
    H_i = sum_m weight[m] nu[m] R^u_i[m+1]             close to -h I, h > 0: this part of Delta Q_i is J_i^T
    S   = sum_j sigma_j^2 sum_m weight[m] R^p_j[m] J_j J_j^T R^u_j[m+1]^T       the pull by the control's own variance

| symbol | here | is |
|---|---|---|
| F_i | `soma[i]` | s (1 - s)^m, s = dt / tau_v, once for each layer from i to L, delayed where transmission is |
| c | `controller` | u after an error of 1 at step 0: u_int + k_p e, with its leak |
| g | `apical` | dt / tau_A (1 - dt / tau_A)^m, a step later unless proactive, after the low-pass with tau_control |
| nu | `noise` | sqrt(dt) / tau_A (1 - dt / tau_A)^m; low-passed: its filter with sqrt(dt) / tau_noise, then (1 - dt / tau_A)^m |
| hp | `high_pass` | the filter of u with tau_f of the single-phase rule; an impulse without |
| P | `impulse_response` | (T, B, n_L, n_L) |

Time constants and steps are those of the Euler scheme, so the result is what the kernels' simulation gives on average.

Forms: "exact" does this for each sample. "mean_field" takes P, H and S of the means over the minibatch of J_i and J_i J_i^T,
which neglects (spread of J_i Q_i over samples) x (gain of the loop), and is
exact for one sample or a linear network. "one_probe" takes
J_i^T z of random signs z for each sample, an unbiased estimate of the mean J_i that H_i multiplies from one backward pass, and P,
H and S from n_L samples of the minibatch.
"""

from __future__ import annotations

import warnings
from typing import Literal, TypeAlias

import numpy as np
from scipy.special import softmax

from dfc_numba.dynamics.feedback_filters import Filters, gains
from dfc_numba.dynamics.plasticity import (
    SIGMA_FLOOR,
    FeedbackUpdate,
    feedback_divisors,
    flagged,
    high_pass_gain,
)
from dfc_numba.kernels.control_response import respond
from dfc_numba.kernels.draws import keyed_draws
from dfc_numba.kernels.layout import pack
from dfc_numba.kernels.multiply import multiply, panel_width
from dfc_numba.model.activations import phi_prime
from dfc_numba.model.controller import Controller
from dfc_numba.model.network import Network
from dfc_numba.model.noise_key import NoiseKey, as_key
from dfc_numba.model.products import outer_sums, row_products, shards_of
from dfc_numba.support import threads
from dfc_numba.support.array_types import ArrayLike
from dfc_numba.support.summation import tree_sum
from dfc_numba.support.validation import choice, finite, instance, samples, silent

FORMS = ("mean_field", "exact", "one_probe")
Form: TypeAlias = Literal["mean_field", "exact", "one_probe"]
LARGEST_OUTPUT = 64  # units: every sample needs one backward pass for each of them
OUTPUT_TOLERANCE = {
    "float64": 1e-6,
    "float32": 1e-4,
}  # allowed difference of target and output, relative to the output or to 1
BENT = 0.01  # change of a mean slope by the noise, relative, from which on linearity is in doubt
PIECE_BYTES = 16e6  # of the responses of samples that the exact form holds at a time
CHECKED_SAMPLES = 8  # whose slopes are looked at for that


@silent()
def expected_feedback_update(
    network: Network,
    x: ArrayLike,
    target: ArrayLike | None,
    controller: Controller,
    *,
    form: Form = "mean_field",
    noise: int | NoiseKey | None = None,
    scaling: bool = False,
    high_pass: float | None = None,
    normalise: tuple[float, float] | None = None,
    sigma_floor: float = SIGMA_FLOOR,
) -> FeedbackUpdate:
    """Return the mean of `feedback_update` over its noise, in the limit of small noise, without simulating.

    Args:
        x: inputs (B, n_0).
        target: the feedforward output, `network.predict(x)` (B, n_L), or its softmax where `controller.error` is "softmax";
            None stands for it. With another target the state moves away from where the network is linearised: refused.
        controller: the `Controller`, with noise.
        form: "mean_field", from the mean Jacobian of the minibatch; "exact", sample by sample, always in float64; or
            "one_probe", a random estimate from one backward pass for each sample.
        noise: of the random signs of "one_probe": an int seed or a `NoiseKey`; None with the other forms.
        scaling, high_pass, normalise, sigma_floor: as for `feedback_update`.

    Returns:
        a `FeedbackUpdate`, arrays (n_i, n_L) in the network's dtype. The bits do not depend on the number of threads.

    Raises:
        ValueError, TypeError: for arguments that do not fit; a target that is not the output; a controller without noise, with
            jacobian_feedback or further terms; more than 64 outputs; or a loop that is unstable, where saturation alone
            bounds the sampled update.

    Warns:
        UserWarning: if the noise is large enough to bend an activation (relu: to cross its kink in more than 1 % of the units).
    """
    network = instance("network", network, Network)
    _check_options(network, instance("controller", controller, Controller), choice("form", form, FORMS))
    key = _signs_key(form, noise)
    high_pass_gain(controller, high_pass)  # checks it
    divisors = feedback_divisors(network, controller, scaling, normalise, sigma_floor)
    activity = network.forward(x)
    for i, v in enumerate(activity.v):
        finite(f"feedforward voltage of layer {i + 1}, ", v)
    _check_target(network, controller, target, activity.r[-1])
    filters = Filters.of(controller, len(network.weights), high_pass)
    _warn_of_large_noise(network, controller, filters, activity)
    with threads.one_thread():
        if form == "exact":
            sums = _exact_sums(network, controller, filters, activity)
        else:
            signs = None if key is None else random_signs(key, len(activity.r[-1]), network.sizes[-1])
            sums = _mean_field(network, controller, filters, activity, signs)
        dtype = network.dtype
        feedback = [(q / -divisor).astype(dtype) for q, divisor in zip(sums, divisors, strict=True)]
    return flagged(FeedbackUpdate(feedback), np.shape(x)[0])


# --- arguments -----------------------------------------------------------------------------------------------------------


def _check_options(network, controller, form):
    controller.require_no_terms("the expected feedback update")
    if not controller.noisy:
        raise ValueError(
            f"the controller has sigma = {controller.sigma:g}, sigma_output = {controller.output_sigma:g}: without noise the "
            "feedback weights learn nothing; set sigma above 0"
        )
    if network.sizes[-1] > LARGEST_OUTPUT:
        raise ValueError(
            f"the expected feedback update (form = {form!r}) is for up to {LARGEST_OUTPUT} outputs, this network has "
            f"{network.sizes[-1]}; use the sampled rule (feedback_update, feedback.rule = 'noise_driven')"
        )


def _signs_key(form, noise):
    """Return the `NoiseKey` of the random signs, None for a form without."""
    if form != "one_probe":
        if noise is not None:
            raise ValueError(
                f"form = {form!r} draws nothing; leave out noise = {noise!r}, or use form = 'one_probe'"
            )
        return None
    key = as_key(noise)
    if key is None:
        raise ValueError(
            f"form = 'one_probe' needs noise, an int seed or a NoiseKey, for its signs; got {noise!r}"
        )
    return key


def _check_target(network, controller, target, output):
    if target is None:
        return
    target = samples("target", target, network.sizes[-1], count=len(output))
    is_softmax = controller.error == "softmax"
    output = softmax(output, axis=1) if is_softmax else output
    distance = np.abs(target - output) / np.maximum(1.0, np.abs(output))
    if distance.max() > OUTPUT_TOLERANCE[network.dtype.name]:
        b, k = np.unravel_index(np.argmax(distance), distance.shape)
        what = "softmax of the feedforward output" if is_softmax else "feedforward output"
        raise ValueError(
            f"target[{b}, {k}] = {target[b, k]:g}, but the {what} is {output[b, k]:g}: the expected update holds around the "
            "feedforward state only; pass target=None, or use feedback_update for another target"
        )


def _warn_of_large_noise(network, controller, filters, activity):
    """Compare the mean slope at v +- its noise with that at v, for a few samples."""
    deviation = np.linalg.norm(filters.noise)  # of v_fb per unit sigma, once the noise is stationary
    for i, (name, v) in enumerate(zip(network.activations, activity.v, strict=True), 1):
        sigma = controller.output_sigma if i == len(activity.v) else controller.sigma
        step = v.dtype.type(sigma * deviation)
        if name == "linear" or step == 0:
            continue
        v = v[:CHECKED_SAMPLES]
        slope = phi_prime(name, v)
        bent = np.abs(phi_prime(name, v + step) + phi_prime(name, v - step) - 2 * slope).sum() / 2
        if bent > BENT * np.abs(slope).sum():
            warnings.warn(
                f"noise of standard deviation {float(step):.2g} in v_fb of layer {i} ({name}) changes its slopes, which the "
                "expected feedback update takes as constant: expect it to deviate from the mean of the sampled rule; lower "
                "sigma, or use the sampled rule",
                stacklevel=3,
            )


# --- the closed loop in the space of the control signal ---------------------------------------------------------------------


def impulse_response(options, loop):
    """Return P: the response of u to an impulse added to the control signal at step 0, (T, B, n, n).

    Args:
        loop: (L, B, n, n), the matrices J_i Q_i.
    """
    response = np.empty((loop.shape[1], options.time_points, *loop.shape[2:]))
    with np.errstate(over="ignore", invalid="ignore"):  # of an unstable loop
        respond(
            response, np.ascontiguousarray(loop.swapaxes(0, 1)), *gains(options), options.dt, options.alpha, options.k_p,
            options.leak == "integral", options.transmission_is_instant, options.proactive,
        )  # fmt: skip
    _require_stable(response[:, -1], options.steps)
    return np.ascontiguousarray(response.swapaxes(0, 1))


def _require_stable(response, steps):
    largest = np.abs(response).max()
    if not largest <= 1:
        raise ValueError(
            f"the control loop is unstable: an impulse in u has grown to {largest:.3g} times its size after the "
            f"{steps} steps, so the expected feedback update, which is linear, does not hold; lower k_p, use feedback "
            "weights such as 'weight_product', or use the sampled rule (feedback_update, feedback.rule = 'noise_driven')"
        )


def pairings(network, options, filters, loop, gram):
    """Return H (L, B, n, n) and S (B, n, n) of the module's equations.

    Args:
        loop, gram: (L, B, n, n), the matrices J_i Q_i and J_i J_i^T.
    """
    response = impulse_response(options, loop)
    depth, (count, b, n) = len(loop), response.shape[:3]
    flat = response.reshape(count, -1)
    h = (filters.to_h @ flat).reshape(depth, b, n, n)
    by_sample = response.transpose(1, 2, 0, 3)  # (B, n, T, n)
    s = np.zeros((b, n, n))
    for to_s, c, sigma in zip(filters.to_s, gram, _sigmas(network, options), strict=True):
        left = (to_s.T @ flat).reshape(count, b, n, n).transpose(1, 2, 0, 3).reshape(b, n, -1)
        right = (by_sample @ (sigma**2 * c)[:, np.newaxis]).reshape(b, n, -1)
        s += left @ right.transpose(0, 2, 1)
    return h, s


def _sigmas(network, options):
    return [options.sigma] * (len(network.weights) - 1) + [options.output_sigma]


# --- Jacobians, and the sums over the samples --------------------------------------------------------------------------------


def jacobians(slopes, packed, top):
    """Yield (i, J_i) from the output downwards, i counted from 0: (m, B, stride), rows of the Jacobian first, zeros above n_i.

    J_L = top diag(phi'(v_L)),  J_i = J_{i+1} W_{i+1} diag(phi'(v_i))

    Args:
        slopes: list of (B, stride of n_i), zeros above n_i. packed: see `_packed`. top: (m, B, n_L), what the rows are at r_L.
    """
    rows, count, inner = top.shape
    j = np.zeros((rows, count, slopes[-1].shape[1]), slopes[-1].dtype)
    np.multiply(top, slopes[-1][:, :inner], out=j[:, :, :inner])
    yield len(slopes) - 1, j
    for i in range(len(slopes) - 2, -1, -1):
        (weights, inner), below, stride = packed[i + 1], j, slopes[i].shape[1]
        j = np.empty((rows, count, stride), j.dtype)
        multiply(
            j.reshape(-1), 0, stride, rows * count, below.reshape(-1), 0, below.shape[2], inner, weights, 0
        )
        j *= slopes[i]
        yield i, j


def _stride(units, dtype):
    """Return `units` rounded up to whole panels of `multiply`."""
    width = panel_width(dtype)
    return -(-units // width) * width


def _packed(network, dtype):
    """Return (W_i^T packed for `multiply`, n_i) of layers 2 .. L; None for the first, below which nothing is propagated."""
    pairs = zip(network.weights[1:], network.sizes[1:-1], strict=True)
    return [None] + [(pack([w.T], [_stride(n, dtype)], dtype), len(w)) for w, n in pairs]


def _top(options, output):
    """Return the rows of d r_L / d r_L, or of d softmax(r_L) / d r_L, for outputs (B, n): (n, B, n)."""
    b, n = output.shape
    eye = np.eye(n, dtype=output.dtype)[:, np.newaxis]
    if options.error != "softmax":
        return np.broadcast_to(eye, (n, b, n))
    p = softmax(output, axis=1)
    return eye * p - p.T[:, :, np.newaxis] * p


def _slopes(network, activity, dtype):
    """Return phi' at the feedforward state, list of (B, stride of n_i) with zeros above n_i."""
    slopes = []
    for name, v in zip(network.activations, activity.v, strict=True):
        slope = phi_prime(name, v.astype(dtype, copy=False))
        stride = _stride(v.shape[1], dtype)
        if stride > v.shape[1]:
            padded = np.zeros((len(v), stride), dtype)
            padded[:, : v.shape[1]] = slope
            slope = padded
        slopes.append(slope)
    return slopes


def _over_shards(network, count, products, shapes, function):
    """Return the sums over the shards of the arrays, of these shapes, that `function(slice)` returns, in the tree's order."""
    shards = shards_of(network, count)
    ends = np.cumsum([0] + [int(np.prod(shape)) for shape in shapes])
    results = [None] * len(shards)

    def run(piece):
        first, number = shards[piece]
        results[piece] = np.concatenate([part.ravel() for part in function(slice(first, first + number))])

    inner = sum(w.size for w in network.weights[1:-1])
    threads.run(len(shards), run, work=2.0 * count * products * inner)
    total = tree_sum(results)
    return [total[a:b].reshape(shape) for a, b, shape in zip(ends[:-1], ends[1:], shapes, strict=True)]


def _mean_field(network, options, filters, activity, signs):
    """Return sigma_i^2 J_i^T H_i^T + Q_i S of the mean J_i and J_i J_i^T; `signs` (B, n) for one probe per sample, else None."""
    depth, (count, n), dtype = len(network.weights), activity.r[-1].shape, network.dtype
    output, sizes, packed = activity.r[-1], network.sizes[1:], _packed(network, dtype)
    slopes, last = _slopes(network, activity, dtype), network.weights[-1]
    same_output = network.activations[-1] == "linear" and options.error != "softmax"

    def full(chosen):
        """Return the sums over samples of J_i, and of J_i J_i^T."""
        means, grams = [None] * depth, [None] * depth
        for i, j in jacobians([d[chosen] for d in slopes], packed, _top(options, output[chosen])):
            if i == depth - 2 and same_output:  # J_i = W_L diag(phi'(v_i))
                slope = slopes[i][chosen, : sizes[i]]
                means[i], grams[i] = last * slope.sum(axis=0), (last * np.square(slope).sum(axis=0)) @ last.T
                continue
            means[i], flat = j.sum(axis=1)[:, : sizes[i]], j.reshape(n, -1)
            grams[i] = flat @ flat.T
        return means + grams

    if signs is None:
        shapes = [(n, size) for size in sizes] + [(n, n)] * depth
        sums, few = _over_shards(network, count, n, shapes, full), count
        means = inner = sums[:depth]
    else:
        means, few = _probed_sums(network, options, slopes, output, signs), min(count, n)
        sums = full(slice(few))
        inner = sums[:depth]
    means, inner, gram = (
        [a.astype(np.float64) / number for a in arrays]
        for arrays, number in ((means, count), (inner, few), (sums[depth:], few))
    )
    feedback = [np.asarray(q, np.float64) for q in network.feedback]
    loop = np.stack([j @ q for j, q in zip(inner, feedback, strict=True)])[:, np.newaxis]
    gram = np.stack(gram)[:, np.newaxis]
    h, s = pairings(network, options, filters, loop, gram)
    zipped = zip(means, feedback, h[:, 0], _sigmas(network, options), strict=True)
    return [sigma**2 * (j.T @ h_i.T) + q @ s[0] for j, q, h_i, sigma in zipped]


def _probed_sums(network, options, slopes, output, signs):
    """Return the sums over the samples of z z^T J_i, from one backward pass each."""
    z = signs.astype(network.dtype)
    j = z if options.error != "softmax" else np.einsum("bk,kbm->bm", z, _top(options, output))
    slopes = [d[:, :n] for d, n in zip(slopes, network.sizes[1:], strict=True)]
    rows = [j * slopes[-1]]
    for weights, slope in zip(network.weights[:0:-1], slopes[-2::-1], strict=True):
        rows.insert(0, row_products(rows[0], weights.T))
        rows[0] *= slope
    return outer_sums([z] * len(rows), rows, shards_of(network, len(z)), network.dtype)


def _exact_sums(network, options, filters, activity):
    """Return the mean over samples of sigma_i^2 J_i^T H_i^T + Q_i S, in float64."""
    count, n = activity.r[-1].shape
    feedback = [np.asarray(q, np.float64) for q in network.feedback]
    dtype = np.dtype(np.float64)
    sigmas, packed, all_slopes = (
        _sigmas(network, options),
        _packed(network, dtype),
        _slopes(network, activity, dtype),
    )

    def parts(chosen):
        slopes = [d[chosen] for d in all_slopes]
        top = _top(options, activity.r[-1][chosen].astype(np.float64))
        by_layer = [j[:, :, : network.sizes[i + 1]] for i, j in jacobians(slopes, packed, top)][::-1]
        by_sample = [j.transpose(1, 0, 2) for j in by_layer]  # (B, n, n_i)
        loop = np.stack([j @ q for j, q in zip(by_sample, feedback, strict=True)])
        gram = np.stack([j @ j.transpose(0, 2, 1) for j in by_sample])
        h, s = pairings(network, options, filters, loop, gram)
        direct = [
            sigma**2 * (j.reshape(-1, j.shape[2]).T @ h_i.transpose(2, 0, 1).reshape(-1, n))
            for j, h_i, sigma in zip(by_layer, h, sigmas, strict=True)
        ]
        return [*direct, s.sum(axis=0)]

    at_a_time = max(1, int(PIECE_BYTES / (8 * n * n * options.time_points)))

    def parts_of_shard(chosen):
        """Return the parts of a shard, in pieces whose responses P take little memory."""
        pieces = range(chosen.start, chosen.stop, at_a_time)
        found = [parts(slice(first, min(first + at_a_time, chosen.stop))) for first in pieces]
        return [tree_sum(arrays) for arrays in zip(*found, strict=True)]

    shapes = [(size, n) for size in network.sizes[1:]] + [(n, n)]
    *direct, s = _over_shards(network, count, n, shapes, parts_of_shard)
    return [(d + q @ s) / count for d, q in zip(direct, feedback, strict=True)]


def random_signs(key, count, units):
    """Return independent random signs (count, units), a function of seed, minibatch and sample: see `NoiseKey`.

    They are those of the noise's generator at layer 0, for which a simulation draws none.
    """
    draws = np.empty((1, count, units))
    keyed_draws(draws, key.word(), np.ones(1, np.int64), key.numbers(count), 0)
    return np.where(draws[0] < 0, -1.0, 1.0)
