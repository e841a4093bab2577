"""
Dynamic inversion
=================

The error of a layer reaches the one below through a loop that inverts the weights between them; the feedback weights
need not be their transpose. (Podlaski and Machens, 2020.)
"""

import matplotlib.pyplot as plt
import numpy as np

import dfc_numba as dfc

rng = np.random.default_rng(0)
net = dfc.Network.create([30, 20, 10, 10], seed=0)
x, y = rng.normal(size=(100, 30)), 0.3 * rng.normal(size=(100, 10))
activity = net.forward(x)
slopes = [1 - r**2 for r in activity.r[:-1]]
error = y - activity.r[-1]
transposed = [-w.T for w in net.weights[1:]]

# %%
# The loops settle; at rest they give the error that the closed form (NDI) gives.

exact = dfc.backward_errors(net.weights, transposed, slopes, error, rule="ndi", alpha=0.01)
_, states = dfc.backward_errors(
    net.weights, transposed, slopes, error, rule="di", alpha=0.01, steps=1500, trajectory=True
)
figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
for layer, style in ((0, "-"), (1, "--")):
    distance = np.linalg.norm(slopes[layer] * states.r_x[layer] - exact[layer], axis=(1, 2)) / np.linalg.norm(
        exact[layer]
    )
    axes.loglog(1 + np.arange(len(distance)), distance, style, label=f"layer {layer + 1}")
axes.set(xlabel="Euler steps", ylabel="distance from the exact inversion")
axes.legend()

# %%
# Random feedback may be unstable; it is optimised until the loops are not.

drawn = dfc.initial_feedback(net.weights, "random", bound=0.1, seed=0)
mended = [loop.feedback for loop in dfc.stabilised_feedback(net.weights, drawn, iterations=2000)]
before, after = (dfc.inversion_stability(net.weights, matrices) for matrices in (drawn, mended))
figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
axes.plot(before.abscissa, "o", label="drawn at random")
axes.plot(after.abscissa, "s", label="optimised")
axes.axhline(0.0, color="k", linestyle=":")
axes.set(xlabel="loop", ylabel="largest real part", xticks=range(len(before.abscissa)))
axes.legend()
