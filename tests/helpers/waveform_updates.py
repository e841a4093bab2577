"""Updates by the waveform integrator, and what they are compared with: Euler steps, also of vanishing size."""

from dataclasses import replace

import numpy as np

import dfc_numba as dfc
from dfc_numba.support.threads import limit_threads


def solved(net, x, target, controller, *, rtol=1e-3, limit="published", **options):
    """The update by the waveform integrator."""
    controller = replace(controller, integrator="waveform", rtol=rtol, limit=limit)
    return dfc.forward_update(net, x, target, controller, **options)


def deviations(ours, theirs):
    """(L,) relative deviations of lists of matrices."""
    return np.array([np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(ours, theirs, strict=True)])


def errors(update, reference):
    """(L,) relative errors of the weights' updates."""
    return deviations(update.weights, reference.weights)


def within_rtol(net, x, target, controller, *, rtol=1e-3, **options):
    """(update, the one by the Euler method), after asserting that they differ by at most rtol, as the update expects."""
    reference = dfc.forward_update(net, x, target, controller, **options)
    update = solved(net, x, target, controller, rtol=rtol, **options)
    assert (errors(update, reference) <= rtol).all(), errors(update, reference)
    assert (update.estimated_error <= rtol).all(), update.estimated_error
    return update, reference


def of_vanishing_steps(net, x, target, controller):
    """The weights' updates that Euler steps tend to as dt -> 0: Richardson's extrapolation of the orders 1 and 2."""

    def stepped(parts):
        finer = replace(controller, dt=controller.dt / parts, steps=controller.steps * parts)
        update = dfc.forward_update(net, x, target, finer)
        # the average counts the initial state, a part of 1 / T of the time
        return [w * finer.time_points / finer.steps for w in update.weights]

    coarse, middle, fine = (stepped(parts) for parts in (2, 4, 8))
    return [(8 * c - 6 * b + a) / 3 for a, b, c in zip(coarse, middle, fine, strict=True)]


def by_threads(net, x, target, controller):
    """[weights, biases, estimated error] of the update with 1, 2 and 4 threads."""
    updates = []
    for threads in (1, 2, 4):
        with limit_threads(threads):
            update = solved(net, x, target, controller)
        updates.append([*update.weights, *update.biases, update.estimated_error])
    return updates
