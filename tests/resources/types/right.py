"""Calls of the public interface as a user writes them; a type checker finds nothing wrong with them."""

from pathlib import Path

import numpy as np

import dfc_numba as dfc
from dfc_numba import data, formulas

digits = data.load("digits", dtype="float32")
x, labels = digits.train.x[:8], digits.train.y[:8]

net = dfc.Network.create(
    [64, 32, 10], hidden_activation=["relu"], feedback_init="weight_product", dtype=np.float32
)
net.weights[0] += 0.1
net.weights[0] = np.zeros((32, 64))
net.feedback = [np.zeros((32, 10)), np.eye(10)]
if net.biases is not None:
    net.biases[0][:] = 1.0
net.set_feedback("jacobian_damped_pinv", x, damping=0.1)
net.save(Path("net.h5"))
sizes: tuple[int, ...] = dfc.Network.load("net.h5").sizes

target = dfc.output_target(net, x, labels, loss="cross_entropy", step=0.1)
controller = dfc.Controller(dt=0.05, steps=20, k_p=0.5, sigma=0.1, tau_noise=None, error="difference")
record = dfc.Record(variables=("u", "v"), samples=(0, 1), every=5)

trajectory = dfc.simulate(net, [[0.0] * 64] * 8, target, controller, noise=dfc.NoiseKey(0, 1), record=record)
first_voltages = trajectory.v[0][-1] if trajectory.v is not None else None
trajectory.save("minibatch.h5", compression="gzip")
again: dfc.Trajectory = dfc.Trajectory.load("minibatch.h5", record=-1)

update = dfc.forward_update(
    net, x, target, controller, readout="final", rule="hebb", samples="converged", noise=0
)
share = update.converged.mean() if update.converged is not None else 0.0
for weights, change in zip(net.weights, update.weights, strict=True):
    weights += 0.1 * change
both = dfc.forward_and_feedback_update(net, x, target, controller, noise=1, normalise=(0.1, 0.2))
angle: float = dfc.alignment(both[0], dfc.reference_update(net, x, labels, "gn", damping=0.1)).total
steady = dfc.steady_state(net, x, target, controller, method="newton")
verdicts = dfc.stability(net, x, target, controller, at="feedforward").verdict
run = dfc.simulate_online(
    net, [(x, target), (x, lambda network, inputs: network.predict(inputs))], controller, tau_w=10
)
status: str = run.status

dfc.register(
    dfc.Activation("softsign", phi=lambda v: v / (1 + abs(v)), derivative=lambda v: 1 / (1 + abs(v)) ** 2),
    dfc.PlasticityRule("hebb", postsynaptic=lambda dr: dr, presynaptic=lambda r: r),
    dfc.ControllerTerm(
        "saturation", limit=lambda u, u_max: formulas.minimum(u, u_max), parameters={"u_max": 1.0}
    ),
)
config = dfc.load_config("digits", {"training.epochs": 2})
epochs: int = config.training.epochs
result = dfc.train(config, out="runs/mine", threads=2)
accuracy: float = result.metrics[-1]["test_accuracy"]
confusion = dfc.evaluate(result.network, x, labels, loss="cross_entropy").confusion
with dfc.limit_threads(1), dfc.open_trajectories("runs/mine") as file:
    control = file["forward"][3].variable("u")[::10, 0]
