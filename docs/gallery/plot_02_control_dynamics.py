"""
The dynamics of control
=======================

Soma, basal and apical compartment of a neuron during the feedback phase, and what gain and leak of the controller do.
"""

import matplotlib.pyplot as plt
import numpy as np

import dfc_numba as dfc

rng = np.random.default_rng(0)
net = dfc.Network.create([20, 30, 30, 5], feedback_init="weight_product", seed=1)
x = rng.standard_normal((4, 20))
target = net.predict(x) + 0.2 * rng.standard_normal((4, 5))
controller = dfc.Controller(dt=0.01, steps=800, alpha=0.01, k_p=1.0, tau_v=0.2, tau_apical=0.05)
trajectory = dfc.simulate(net, x, target, controller)

# %%
# The apical compartment receives the control signal, the basal one the rates from below, which change too; the soma
# follows both.

figure, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained", sharex=True)
for layer, panel in enumerate(axes):
    unit = int(np.abs(trajectory.v_fb[layer][:, 0]).max(axis=0).argmax())
    start = trajectory.v[layer][0, 0, unit]
    panel.plot(trajectory.time, trajectory.v[layer][:, 0, unit] - start, label="soma v")
    panel.plot(trajectory.time, trajectory.v_ff[layer][:, 0, unit] - start, "--", label="basal v_ff")
    panel.plot(trajectory.time, trajectory.v_fb[layer][:, 0, unit], ":", label="apical v_fb")
    panel.set(title=f"layer {layer + 1}, unit {unit}", xlabel="time (tau_u)")
axes[0].set_ylabel("change of the voltage")
axes[0].legend()

# %%
# A purely integral controller rings. A proportional gain damps it; a large one acts at once and leaves the rest to a
# slow integral. A leak leaves a part of the error for good.

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained", sharey=True)
for k_p in (0.0, 1.0, 4.0):
    error = dfc.simulate(net, x, target, dfc.Controller(dt=0.01, steps=800, alpha=0.01, k_p=k_p)).error
    left.semilogy(trajectory.time, error[:, 0], label=f"k_p = {k_p:g}")
for alpha in (0.001, 0.05, 0.5):
    error = dfc.simulate(net, x, target, dfc.Controller(dt=0.01, steps=800, alpha=alpha, k_p=1.0)).error
    right.semilogy(trajectory.time, error[:, 0], label=f"alpha = {alpha:g}")
for panel in (left, right):
    panel.set(xlabel="time (tau_u)")
    panel.legend()
left.set_ylabel("output error")
