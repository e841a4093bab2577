"""
Alignment with Gauss-Newton
===========================

Where does the update of DFC point? Towards Gauss-Newton and minimum-norm steps where the feedback weights span the rows
of the Jacobian and the leak is small; towards backpropagation where they are its transpose and the leak is large.
"""

import matplotlib.pyplot as plt
import numpy as np

import dfc_numba as dfc

rng = np.random.default_rng(0)
net = dfc.Network.create([20, 30, 30, 8], feedback_init="xavier_normal", seed=1)
net.weights[2] *= np.geomspace(0.05, 2.0, 8)[:, None]  # outputs that are hard and easy to move
x, labels = rng.standard_normal((1, 20)), np.array([2])
leaks = np.geomspace(1e-5, 1e3, 17)


def angles(kind, feedback):
    """Return the degrees between DFC's update and a reference, over the leaks."""
    one = net.copy()
    if feedback != "random":
        one.set_feedback(feedback, x)
    target = dfc.output_target(one, x, labels, loss="cross_entropy", step=1e-3)
    reference = dfc.reference_update(one, x, labels, kind, loss="cross_entropy")
    options = {"readout": "analytic", "rule": "voltage_difference"}
    updates = [dfc.forward_update(one, x, target, dfc.Controller(alpha=alpha), **options) for alpha in leaks]
    return [dfc.alignment(update, reference).total for update in updates]


figure, panels = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained", sharey=True)
titles = {"bp": "backpropagation", "gn": "Gauss-Newton", "mn": "minimum norm"}
for panel, (kind, title) in zip(panels, titles.items(), strict=True):
    for feedback in ("random", "jacobian_transpose", "jacobian_pinv"):
        panel.semilogx(leaks, angles(kind, feedback), label=f"Q: {feedback}")
    panel.set(title=f"angle with {title}", xlabel="leak alpha")
panels[0].set_ylabel("degrees")
panels[0].legend(fontsize="small")

# %%
# The two conditions of the theorem are measured as well: equal norms of the layers' inputs, and how much of Q lies in
# the row space of the Jacobian.

for feedback in ("jacobian_pinv", "weight_product"):
    one = net.copy()
    one.set_feedback(feedback, x)
    where = dfc.conditions(one, x)
    print(f"{feedback}: dev_r {where.dev_r[0]:.3f}, condition 2 {where.condition_2[0]:.3f}")
