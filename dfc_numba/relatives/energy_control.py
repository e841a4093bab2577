"""Energy-based least control (LCP-EBD): the controlled state as the minimum of an energy, found by Adam.

    E = 1/2 |v - f(v, x)|^2 + 1/2 |o - D phi(v) - c|^2 + (1/alpha) l(o),   e* = v - f(v, x),   u* = o - D phi(v) - c

The first two terms are summed over samples, l is the mean loss (Meulemans, Zucchet et al. 2022, arXiv:2207.01332, section 4).
"""

from typing import Literal

import numpy as np

from dfc_numba.model.targets import as_targets, loss_gradient
from dfc_numba.relatives.control_learning import control_update
from dfc_numba.relatives.finiteness import finite_samples
from dfc_numba.relatives.least_control import (
    Controlled,
    LeastControl,
    rates_of,
    slopes_of,
    system_of,
)
from dfc_numba.support import threads
from dfc_numba.support.options import options
from dfc_numba.support.ranges import Flag, Positive, PositiveLeak, Steps
from dfc_numba.support.validation import instance, samples

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
FREE_STEPS, FREE_TOLERANCE = 10_000, 1e-15


@options
class EnergyControl:
    """Options of energy-based least control.

    Args:
        alpha: what the loss is divided by. loss: "mse" (mean over samples and outputs) or "cross_entropy".
        learning_rate, steps: of the Adam that moves the states. from_free_state: start at v = f(v), o = D phi(v) + c
            instead of 0.
    """

    alpha: PositiveLeak = 0.1
    loss: Literal["mse", "cross_entropy"] = "cross_entropy"
    learning_rate: Positive = 0.01
    steps: Steps = 800
    from_free_state: Flag = False


@np.errstate(over="ignore", invalid="ignore")
def energy_control(network, x, y, options):
    """Return the update of energy-based least control; the arguments are those of `control_update`.

    Returns:
        `ControlUpdate`, whose state has e*, u* and o at the last step.
    """
    instance("options", options, EnergyControl)
    system = system_of(network)
    x = samples("x", x, system.inputs)
    y = as_targets(y, system.outputs, count=len(x))
    with threads.one_thread():
        system.begin(x)
        v = [np.zeros((len(x), n)) for n in system.sizes]
        o = np.zeros((len(x), system.outputs))
        if options.from_free_state:
            v = free_state(system, v)
            o = system.output(rates_of(system, v))
        states = [*v, o]
        moments = [[np.zeros_like(s) for s in states] for _ in range(2)]
        for step in range(1, options.steps + 1):
            e, u = _residuals(system, states)
            back, slopes = system.back(e, u), slopes_of(system, states[:-1])
            gradients = [a - s * b for a, s, b in zip(e, slopes, back, strict=True)]
            gradients.append(u + loss_gradient(states[-1], y, options.loss) / options.alpha)
            rate, root = options.learning_rate / (1 - BETA1**step), np.sqrt(1 - BETA2**step)
            for s, g, m, q in zip(states, gradients, *moments, strict=True):
                m += (1 - BETA1) * (g - m)
                q *= BETA2
                q += (1 - BETA2) * g * g
                s -= rate * m / (np.sqrt(q) / root + EPSILON)
        e, u = _residuals(system, states)
    *v, o = states
    finite = finite_samples(len(x), v, e, o, u)
    state = Controlled(v, e, o, np.zeros_like(u), u, v, o, options.steps, None, finite)
    return control_update(network, x, y, LeastControl(loss=options.loss), state=state)


def free_state(system, v):
    """Iterate v = f(v) to its fixed point, for a system that has begun.

    Raises:
        ValueError: for a recurrent network that does not come to rest.
    """
    for _ in range(FREE_STEPS):
        new = system.drive(rates_of(system, v))
        change = max(np.abs(a - b).max() for a, b in zip(new, v, strict=True))
        v = new
        if change <= FREE_TOLERANCE:
            return v
        if not np.isfinite(change):
            break
    if change > 1e-9 or not np.isfinite(change):
        raise ValueError(
            f"the network has no stable equilibrium without control: its states still change by {change:.1e} after {FREE_STEPS} "
            "steps; scale its recurrent weights down, or start from 0 (from_free_state = False)"
        )
    return v


def _residuals(system, states):
    *v, o = states
    rates = rates_of(system, v)
    e = [a - f for a, f in zip(v, system.drive(rates), strict=True)]
    return e, o - system.output(rates)
