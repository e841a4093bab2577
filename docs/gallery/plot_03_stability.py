"""
Stability, and the step
=======================

Is the controlled network unstable, or is only the Euler step too large? The eigenvalues of each sample's dynamics tell.
"""

import matplotlib.pyplot as plt
import numpy as np

import dfc_numba as dfc

rng = np.random.default_rng(3)
net = dfc.Network.create([20, 30, 5], feedback_init="weight_product", seed=0)
x = rng.standard_normal((16, 20))
target = net.predict(x) + 0.1 * rng.standard_normal((16, 5))

# %%
# The spectral radius of an Euler step grows with ``dt``; where it passes 1, deviations grow from step to step.

steps = np.geomspace(0.005, 0.2, 25)
found = [dfc.stability(net, x, target, dfc.Controller(dt=dt, k_p=2.0)) for dt in steps]
figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
axes.semilogx(steps, [one.euler.max() for one in found])
axes.axhline(1.0, color="k", linestyle=":")
largest = found[0].largest_dt.min()
axes.axvline(largest, color="k", linestyle=":")
axes.set(xlabel="dt", ylabel="spectral radius, the worst sample", ylim=(0.8, 2.0))
print(f"the largest stable step is {largest:.3f}; verdict at dt = 0.2: {set(found[-1].verdict.tolist())}")

# %%
# The same in simulations: below that step the error falls, above it the simulation diverges, and says for which
# samples.

figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
for dt in (0.5 * largest, 0.95 * largest, 1.05 * largest):
    trajectory = dfc.simulate(net, x, target, dfc.Controller(dt=dt, steps=200, k_p=2.0))
    axes.semilogy(trajectory.error.max(axis=1), label=f"dt = {dt:.3f}, diverged: {trajectory.diverged.sum()}")
axes.set(xlabel="Euler steps", ylabel="largest error", ylim=(1e-4, 1e3))
axes.legend()
