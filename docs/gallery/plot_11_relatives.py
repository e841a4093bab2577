"""
Relatives of DFC
================

Target propagation, equilibrium propagation, least control and GRAPES use the same networks, data sets and optimisers,
so that they can be put side by side.
"""

import matplotlib.pyplot as plt

import dfc_numba as dfc

settings = {"training.epochs": 3, "network.hidden": [32], "data.options": {"train_size": 400}}
methods = {
    "bp": {},
    "dfa": {},
    "dfc-ssa": {"feedback.train": False, "network.feedback_init": "jacobian_transpose"},
    "ddtp-linear": {},
    "lcp-di": {},
    "grapes-bp": {},
}
figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
for method, own in methods.items():
    result = dfc.train(dfc.load_config("digits", settings | {"training.method": method} | own))
    axes.plot(range(1, 4), [row["test_accuracy"] for row in result.metrics], marker="o", label=method)
axes.set(xlabel="epoch", ylabel="test accuracy", xticks=[1, 2, 3])
axes.legend(title="training.method")

# %%
# The settings are those of the preset ``digits``, which was tuned for DFC: the picture shows how to compare, not who
# wins. The presets ``tp-mnist-...``, ``ep-mnist-...``, ``lcp-mnist-...`` and ``grapes-mnist-...`` have the published
# settings of each.
