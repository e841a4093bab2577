"""
Your own data
=============

Arrays or data frames, with classes of any type, become a data set; from the shell, a ``.npz``, ``.h5`` or ``.csv`` file
does.
"""

import matplotlib.pyplot as plt
import numpy as np

import dfc_numba as dfc
from dfc_numba import data

rng = np.random.default_rng(0)
angle, moon = np.pi * rng.random(900), rng.integers(2, size=900)
x = np.stack([np.cos(angle + np.pi * moon) + moon, np.sin(angle + np.pi * moon) + 0.4 * moon], axis=1)
x += 0.12 * rng.standard_normal(x.shape)
names = np.array(["upper", "lower"])[moon]

moons = data.from_arrays(x, names, scale="standardise", validation_size=150, test_size=150, name="moons")
print(moons.classes, *moons.notes, sep="\n")

# %%
# A preset says how to learn; the settings that differ are stated.

config = dfc.load_config(
    "digits",
    {"training.epochs": 20, "network.hidden": [40, 30], "feedback.pretraining_epochs": 2},
)
result = dfc.train(config, data=moons)
evaluation = result.evaluate("test")
print(f"test accuracy {evaluation.accuracy:.1%}", evaluation.confusion, sep="\n")

# %%
# Learning curves, and what the network has made of the plane.

grid = np.stack(np.meshgrid(*[np.linspace(-2.2, 2.2, 120)] * 2), axis=-1)
decided = result.network.predict(grid.reshape(-1, 2)).argmax(axis=1).reshape(120, 120)
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for split in ("train", "val", "test"):
    left.plot([row[f"{split}_accuracy"] for row in result.metrics], label=split)
left.set(xlabel="epoch", ylabel="accuracy")
left.legend()
right.contourf(grid[..., 0], grid[..., 1], decided, levels=1, cmap="coolwarm", alpha=0.4)
right.scatter(*moons.test.x.T, c=moons.test.y, cmap="coolwarm", s=12)
right.set(title="test samples, and the decision")
