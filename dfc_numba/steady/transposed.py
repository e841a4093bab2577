"""The steady state of the controlled network with transposed Jacobian feedback, v_i = W_i r_{i-1} + b_i + J_i(v)^T u.

    d = J(v)^T u from the output down,  v_i = W_i phi(v_{i-1}) + b_i + d_i from the input up,
    u <- u + M (e - alpha u),  M = (S J J^T + alpha I)^{-1} of the feedforward state,  S = I or diag(p) - p p^T (softmax)

repeated until neither u nor d changes. At rest this is LCP-DI (Meulemans, Zucchet et al. 2022, arXiv:2207.01332, section 3), and
DFC with the ideal feedback weights. An iteration costs two products for each layer; M is made once per minibatch. Between
iterations u is extrapolated along its last change (Anderson's method, depth 1).
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from dfc_numba.model import jacobian
from dfc_numba.model.activations import phi, phi_prime
from dfc_numba.model.network import feedforward_state
from dfc_numba.support.ranges import Count, PositiveTolerance
from dfc_numba.support.threads import one_thread
from dfc_numba.support.validation import number, samples, whole_number

CONVERGED, OUT, NOT_FINITE = "converged", "out of iterations", "not finite"


@dataclass(frozen=True)
class TransposedRest:
    """The network at rest with J^T u feedback; lists over the layers, (B, n_i) in float64.

    Attributes:
        x, feedforward: inputs, and the `Activity` without control. u: (B, n_L).
        v, r, delta_v: voltages, rates, J^T u. residual: (B,) norm of e - alpha u.
        iterations, converged, status: (B,), as in `SteadyState`.
    """

    x: np.ndarray
    feedforward: object
    u: np.ndarray
    v: list
    r: list
    delta_v: list
    residual: np.ndarray
    iterations: np.ndarray
    converged: np.ndarray
    status: np.ndarray


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def solve(network, x, target, controller, *, tolerance=1e-12, max_iterations=200):
    """Find the steady state, see the module.

    Args:
        x, target, controller: as for `steady_state`; noise is refused.
        tolerance: of |e - alpha u| relative to |e| in the feedforward state, and of the change of J^T u, relative.

    Raises:
        ValueError, TypeError: for arguments that do not fit.
    """
    if controller.noisy:
        raise ValueError("with noise there is no steady state; set sigma to 0, or simulate")
    number("tolerance", tolerance, PositiveTolerance)
    whole_number("max_iterations", max_iterations, Count)
    x, activity = feedforward_state(network, x)
    target = samples("target", target, network.sizes[-1], count=len(x))
    alpha, soft = controller.steady_leak, controller.error == "softmax"
    weights = [w.astype(np.float64) for w in network.weights]
    biases = [0.0] * len(weights) if network.biases is None else network.biases
    names = network.activations

    def error(output):
        return target - (softmax(output, axis=1) if soft else output)

    count = len(x)
    iterations, finished = np.zeros(count, np.int64), np.zeros(count, bool)
    with one_thread():
        inverse = _typical_inverse(network, activity, alpha, soft)
        v, r = activity.v, activity.r
        u, delta = np.zeros_like(target), [np.zeros_like(a) for a in v]
        first = error(r[-1])
        goal, before = tolerance * np.linalg.norm(first, axis=1), None
        still = x @ weights[0].T + biases[0]
        for _ in range(max_iterations):
            residual = error(r[-1]) - alpha * u
            new_u, before = extrapolated(u, np.einsum("bij,bj->bi", inverse, residual), before, largest=5.0)
            moved = np.where(finished[:, None], u, new_u)
            back, new = moved, []
            for i in reversed(range(len(v))):
                new.insert(0, phi_prime(names[i], v[i]) * back)
                back = new[0] @ weights[i]
            changed = np.sqrt(sum(np.sum((a - b) ** 2, axis=1) for a, b in zip(new, delta, strict=True)))
            size = np.sqrt(sum(np.sum(a**2, axis=1) for a in new))
            new_v, new_r = [], []
            for i, name in enumerate(names):
                basal = still if i == 0 else new_r[-1] @ weights[i].T + biases[i]
                new_v.append(basal + new[i])
                new_r.append(phi(name, new_v[-1]))
            keep = finished[:, None]
            u = moved
            delta, v, r = (
                [np.where(keep, old, now) for old, now in zip(*pair, strict=True)]
                for pair in ((delta, new), (v, new_v), (r, new_r))
            )
            iterations += ~finished
            norm = np.linalg.norm(error(r[-1]) - alpha * u, axis=1)
            finished |= (norm <= goal) & (changed <= tolerance * size)
            if (finished | ~np.isfinite(norm)).all():
                break
    status = np.where(finished, CONVERGED, np.where(np.isfinite(norm), OUT, NOT_FINITE))
    return TransposedRest(x, activity, u, v, r, delta, norm, iterations, finished, status)


def _typical_inverse(network, activity, alpha, soft):
    """Return M of every sample, (B, n_L, n_L)."""
    j = jacobian.of_output(network, activity.v)
    gram = j @ j.transpose(0, 2, 1)
    if soft:
        p = softmax(activity.r[-1], axis=1)
        gram = (p[:, :, None] * np.eye(gram.shape[1]) - p[:, :, None] * p[:, None, :]) @ gram
    return np.linalg.pinv(gram + alpha * np.eye(gram.shape[1]))


def extrapolated(u, step, before, *, largest=None):
    """Return (u + step, what the next call needs), extrapolating along each sample's last change (Anderson, depth 1).

    Args:
        u, step: (B, n). before: what the call before returned, None at first. largest: size of the weight that the last
            change has at most; None for any.
    """
    taken = step
    if before is not None:
        du, ds = u - before[0], step - before[1]
        norm = np.sum(ds * ds, axis=1)
        weight = np.where(norm > 0, np.sum(step * ds, axis=1) / np.where(norm > 0, norm, 1.0), 0.0)
        weight = weight if largest is None else np.clip(weight, -largest, largest)
        taken = step - weight[:, None] * (du + ds)
    return u + taken, (u, step)
