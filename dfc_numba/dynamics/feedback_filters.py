"""The Euler scheme of a feedback phase as filters: how the output, the control signal and the noise respond to an impulse.

All layers share their time constants, so these are sequences of numbers, made once for each controller. Symbols and equations:
see `expected_feedback`, which needs them.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True, eq=False)
class Filters:
    """Impulse responses of the Euler scheme, (T,) each: index m is m steps after the impulse. Symbols: see the module.

    Attributes:
        soma: list of F_i, from the voltage drive of layer i to the output. controller, apical, noise, high_pass: c, g, nu, hp.
        to_h: (L, T), H_i = sum_t to_h[i, t] P[t].
        to_s: list of (T, T), S = sum_j sigma_j^2 sum_tt' to_s[j][t, t'] P[t] C_j P[t']^T
            with C_j = J_j J_j^T, both with the weight in them.
    """

    soma: list
    controller: np.ndarray
    apical: np.ndarray
    noise: np.ndarray
    high_pass: np.ndarray
    to_h: np.ndarray
    to_s: list

    @staticmethod
    @lru_cache(maxsize=4)
    def of(options, depth, high_pass):
        """Return the filters of a `Controller` for a number of layers, and of a time constant tau_f or None."""
        count, steps = options.time_points, options.steps
        m, impulse = np.arange(count), np.eye(1, count)[0]
        s, a, low = gains(options)
        soma = [s * (1 - s) ** m]  # 0 ** 0 is 1
        hop = soma[0] if options.transmission_is_instant else np.r_[0.0, soma[0][:-1]]
        for _ in range(depth - 1):
            soma.insert(0, convolve(soma[0], hop))
        keep = (1 - a) ** m
        apical = a * keep if options.proactive else np.r_[0.0, a * keep[:-1]]
        if options.tau_noise is None:
            noise = np.sqrt(options.dt) * a / options.dt * keep
        else:
            noise = np.sqrt(options.dt) / options.tau_noise * (1 - options.dt / options.tau_noise) ** m
            noise = convolve(noise, keep)
        gain = 0.0 if high_pass is None else options.dt / high_pass
        filters = {
            "controller": _controller_response(options),
            "apical": convolve(apical, low * (1 - low) ** m),
            "noise": noise,
            "high_pass": impulse - gain * (1 - gain) ** m,
        }
        weight = np.maximum(steps - 1 - m[:-1], 0) / steps
        pairing = np.r_[0.0, weight * noise[:-1]]
        to_h, to_s = [], []
        for f in soma:
            to_u = convolve(convolve(filters["controller"], noise), f)  # R is minus this, convolved with P
            of_u, of_p = convolve(filters["high_pass"], to_u), convolve(filters["apical"], to_u)
            to_h.append(-np.correlate(pairing, of_u, "full")[count - 1 :])
            to_s.append(pair_weights(of_p, of_u))
        return Filters(soma, to_h=np.array(to_h), to_s=to_s, **filters)


def gains(options):
    """Return dt over the time constants of soma, apical compartment and filtered control; 1 for what follows at once."""
    soma = 1.0 if options.instant_dynamics else options.dt / options.tau_v
    return (
        soma,
        *(1.0 if tau is None else options.dt / tau for tau in (options.tau_apical, options.tau_control)),
    )


def _controller_response(options):
    """Return c: the control signal after an error of 1 at step 0, (T,); it is 0 there."""
    response, u, u_int = np.zeros(options.time_points), 0.0, 0.0
    for t in range(options.steps):
        e = float(t == 0)
        u_int += options.dt * (e - options.alpha * (u if options.leak == "total" else u_int))
        u = u_int + options.k_p * e
        response[t + 1] = u
    return response


def pair_weights(p, q):
    """Return K[t, t'] = sum over m of p[m - t] weight[m] q[m + 1 - t'], for sequences of T = steps + 1 numbers.

    The weight falls by 1 / steps at each m, so K[t, t'] - K[t + 1, t' + 1] is the sum without it over steps, whose own
    differences along the diagonal are p[steps - 2 - t] q[steps - 1 - t']: two cumulative sums, from the last row up.
    """
    count, steps = len(p), len(p) - 1
    t = np.arange(count)
    before, after = (np.where(t <= n, a[n - t], 0.0) for a, n in ((p, steps - 2), (q, steps - 1)))
    k = np.outer(before, after)
    for scale in (1 / steps, 1.0):
        for row in range(count - 2, -1, -1):
            k[row, :-1] += k[row + 1, 1:]
        k *= scale
    return k


def convolve(a, b):
    """Return the causal convolution of two sequences of the same length, cut to it."""
    return np.convolve(a, b)[: len(a)]
