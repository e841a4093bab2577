"""
Solving the feedback phase in time
==================================

``integrator="waveform"`` solves for the control error at a few nodes in time instead of stepping through it: the same
update for a small part of the work, with an error estimate for each layer.
"""

import time

import matplotlib.pyplot as plt
import numpy as np

import dfc_numba as dfc
from dfc_numba import data

digits = data.load("digits")
x, labels = digits.train.x[:64], digits.train.y[:64]
net = dfc.Network.create([64, 256, 256, 10], feedback_init="weight_product", seed=0)
target = dfc.output_target(net, x, labels, loss="cross_entropy", step=0.1)


def timed(controller):
    """Return the update, and the seconds that it takes once everything is compiled."""
    dfc.forward_update(net, x, target, controller)
    start = time.perf_counter()
    return dfc.forward_update(net, x, target, controller), time.perf_counter() - start


euler, stepped = timed(dfc.Controller())
tolerances, errors, estimates, seconds = [1e-2, 1e-3, 1e-4], [], [], []
for rtol in tolerances:
    solved, needed = timed(dfc.Controller(integrator="waveform", rtol=rtol))
    seconds.append(needed)
    estimates.append(solved.estimated_error.max())
    errors.append(
        max(
            np.linalg.norm(a - b) / np.linalg.norm(b)
            for a, b in zip(solved.weights, euler.weights, strict=True)
        )
    )

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
left.loglog(tolerances, errors, "o-", label="measured against Euler steps")
left.loglog(tolerances, estimates, "s--", label="estimated")
left.loglog(tolerances, tolerances, "k:", label="asked for")
left.set(xlabel="rtol", ylabel="relative error, the worst layer")
left.legend()
right.bar(["Euler", *(f"{rtol:g}" for rtol in tolerances)], [stepped, *seconds])
right.set(ylabel="seconds for one update", xlabel="integrator, or rtol of the waveform")
