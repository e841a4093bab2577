"""
Replay, and what if
===================

A trajectory file carries its recipe: parameters, inputs, target, controller and the key of the noise. It is computed
again bit for bit, on any number of threads, or with another controller.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import dfc_numba as dfc
from dfc_numba.analysis import offline

folder = Path(tempfile.mkdtemp())
rng = np.random.default_rng(0)
net = dfc.Network.create([20, 30, 5], feedback_init="weight_product", seed=0)
x = rng.standard_normal((8, 20))
target = net.predict(x) + 0.1 * rng.standard_normal((8, 5))
controller = dfc.Controller(dt=0.02, steps=400, alpha=0.01, k_p=2.0, sigma=0.01)
dfc.simulate(net, x, target, controller, noise=dfc.NoiseKey(7)).save(folder / "noisy.h5")

with dfc.limit_threads(1):
    print([record.status for record in dfc.replay(folder / "noisy.h5")])

# %%
# The same minibatch, and the same noise, under other controllers: how the error falls, and how far noise turns the
# update.

quiet = dfc.forward_update(net, x, target, dfc.Controller(dt=0.02, steps=400, alpha=0.01, k_p=2.0))

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
for name, changes in {
    "as it was": {},
    "k_p = 0.5": {"k_p": 0.5},
    "low-passed noise": {"tau_noise": 0.2},
}.items():
    path = folder / f"{len(list(folder.iterdir()))}.h5"
    dfc.what_if(folder / "noisy.h5", path, changes)
    with dfc.open_trajectories(path) as file:
        record = file["simulation"][0]
        left.semilogy(file["simulation"].time, record["error"].mean(axis=1), label=name)
        update = offline.forward_update(record)
    right.bar(name, dfc.alignment(update, quiet).total)
left.set(xlabel="time (tau_u)", ylabel="output error, mean")
left.legend()
right.set(ylabel="degrees from the update without noise", title="update, from the stored voltages")
