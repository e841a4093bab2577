"""Trajectories of feedback phases that were solved in time: the interpolant of the nodes, evaluated at the recorded steps."""

import numpy as np
from scipy.special import log_softmax, softmax

from dfc_numba.dynamics.time_operators import interpolation, time_operators
from dfc_numba.model.activations import phi


def interpolate(phase, outcome, nodes, chosen, every):
    """Return the variables of some samples, solved at `nodes` nodes, as a dict of arrays (T, n, ...) or lists of them.

    Args:
        outcome: of the kernel. chosen: numbers of the samples.
    """
    network, controller = phase.network, phase.controller
    operators, course = time_operators(controller, nodes), interpolation(controller, nodes, every)
    outputs, start = network.sizes[-1], outcome.start[chosen]
    error = outcome.error[chosen, : nodes * outputs].reshape(len(chosen), nodes, outputs).transpose(1, 0, 2)
    whole = np.concatenate([start[np.newaxis], error])
    control = _apply(operators.control, error) + operators.control_start[:, np.newaxis, np.newaxis] * start
    apical = _apply(course.apical, whole)
    found = {name: [] for name in ("v", "v_ff", "v_fb", "r")} | {
        "u": _apply(course.u, whole),
        "u_int": _apply(course.u_int, whole),
    }
    change = None
    for i, name in enumerate(network.activations):
        weight, feedback = network.weights[i].astype(np.float64), network.feedback[i].astype(np.float64)
        v_0 = _layer(phase.minibatch.v_ff, phase, i)[chosen]
        basal = np.zeros((nodes, len(chosen), len(weight))) if change is None else change @ weight.T
        v = _apply(operators.soma, basal) + control @ feedback.T
        change = phi(name, v_0 + v) - phi(name, v_0)
        voltage = v_0 + _apply(course.values[:, 1:], v)
        found["v"].append(voltage)
        found["v_ff"].append(v_0 + _apply(course.basal[:, 1:], basal))
        found["v_fb"].append(apical @ feedback.T)
        found["r"].append(phi(name, voltage))
    return found | _errors(controller, phase.minibatch.target[chosen], found["r"][-1])


def _errors(controller, target, rates):
    """Return the control error and its monitored size."""
    if controller.error == "softmax":
        return {
            "e": target - softmax(rates, axis=-1),
            "error": -(target * log_softmax(rates, axis=-1)).sum(axis=-1),
        }
    return {"e": target - rates, "error": np.linalg.norm(target - rates, axis=-1)}


def _apply(matrix, values):
    """Apply a matrix on the time axis of (m, n, units)."""
    return np.tensordot(matrix, values, 1)


def _layer(flat, phase, i):
    """Return layer i of a dense array, (B, n_i)."""
    start, size = phase.count * int(phase.places.dense[i + 1]), phase.network.sizes[i + 1]
    return flat[start : start + phase.count * size].reshape(phase.count, size)
