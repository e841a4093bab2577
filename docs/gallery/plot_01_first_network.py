"""
A first network
===============

A controller drives the output of a network to its target, and the network learns from how far this moves its neurons.
"""

import matplotlib.pyplot as plt
import numpy as np

import dfc_numba as dfc
from dfc_numba import data

digits = data.load("digits")  # 8 x 8 handwritten digits, shipped with the package
x, labels = digits.train.x[:32], digits.train.y[:32]

net = dfc.Network.create([64, 48, 32, 10], hidden_activation="tanh", feedback_init="weight_product", seed=0)
target = dfc.output_target(net, x, labels, loss="cross_entropy", step=0.1)
controller = dfc.Controller(dt=0.02, steps=400, alpha=0.0014, k_p=2.0, tau_v=0.2)

# %%
# One *feedback phase*: voltages, rates and the control signal of all samples at every time point.

trajectory = dfc.simulate(net, x, target, controller)
print(trajectory.r[-1].shape)  # time points, samples, output units

# %%
# The outputs of the first sample move to their targets (dashed), which the loss has set.

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
for unit in range(4):
    change = trajectory.r[-1][:, 0, unit] - trajectory.r[-1][0, 0, unit]
    (line,) = left.plot(trajectory.time, change, label=f"unit {unit}")
    left.axhline(target[0, unit] - trajectory.r[-1][0, 0, unit], color=line.get_color(), linestyle="--")
left.set(xlabel="time (tau_u)", ylabel="change of the output rate")
left.legend()
right.semilogy(trajectory.time, trajectory.error, color="0.7", linewidth=0.8)
right.semilogy(trajectory.time, trajectory.error.mean(axis=1), color="k", label="mean of the samples")
right.set(xlabel="time (tau_u)", ylabel="output error")
right.legend()

# %%
# Learning repeats this: the update of a weight is the product of the difference that the controller made and the rate
# before it. The feedback weights follow the forward weights here; they can also be learned from noise.

losses, rng = [], np.random.default_rng(0)
quick = dfc.Controller(dt=0.05, steps=40, alpha=0.01, k_p=1.0)
for minibatch in np.array_split(rng.permutation(len(digits.train.x)), 40):
    x, y = digits.train.x[minibatch], digits.train.y[minibatch]
    losses.append(dfc.evaluate(net, digits.test.x, digits.test.y, loss="cross_entropy").accuracy)
    target = dfc.output_target(net, x, y, loss="cross_entropy", step=0.1)
    update = dfc.forward_update(net, x, target, quick)
    for i in range(3):
        net.weights[i] += 4.0 * update.weights[i]
        net.biases[i] += 4.0 * update.biases[i]
    net.set_feedback("weight_product")

figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
axes.plot(losses)
axes.set(xlabel="minibatches", ylabel="test accuracy")
