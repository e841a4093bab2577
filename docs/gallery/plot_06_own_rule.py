"""
Your own rule, and your own activation
======================================

A plasticity rule or an activation is a formula; it is traced once, compiled to machine code, and runs at the speed of
the built-in ones, in Python, in presets and on the command line.
"""

import matplotlib.pyplot as plt
import numpy as np

import dfc_numba as dfc
from dfc_numba import data
from dfc_numba.formulas import tanh

softsign = dfc.Activation(
    "softsign", phi=lambda v: v / (1 + abs(v)), derivative=lambda v: 1 / (1 + abs(v)) ** 2
)
squashed = dfc.PlasticityRule(
    "squashed", postsynaptic=lambda dr, slope_ff: dr * slope_ff, presynaptic=lambda r: tanh(2.0 * r),
)  # fmt: skip
dfc.register(softsign, squashed)

# %%
# From now on both have names like any other.

digits = data.load("digits")
x, labels = digits.train.x[:32], digits.train.y[:32]
net = dfc.Network.create([64, 48, 10], hidden_activation="softsign", feedback_init="weight_product", seed=0)
target = dfc.output_target(net, x, labels, loss="cross_entropy", step=0.1)
controller = dfc.Controller(dt=0.05, steps=100, alpha=0.01, k_p=1.0)
ours = dfc.forward_update(net, x, target, controller, rule="squashed")
built_in = dfc.forward_update(net, x, target, controller)
print(f"angle between the two rules: {dfc.alignment(ours, built_in).total:.1f} degrees")

# %%
# Trained with either rule:

figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
for rule in ("nonlinear_difference", "squashed"):
    config = dfc.load_config(
        "digits",
        {"training.rule": rule, "network.hidden_activation": "softsign", "network.hidden": [48], "training.epochs": 4,
         "feedback.pretraining_epochs": 1, "controller.steps": 30},
    )  # fmt: skip
    axes.plot(
        np.arange(1, 5), [row["test_accuracy"] for row in dfc.train(config).metrics], marker="o", label=rule
    )
axes.set(xlabel="epoch", ylabel="test accuracy", title="softsign units", xticks=[1, 2, 3, 4])
axes.legend()
