"""Mistakes in calls of the public interface; a type checker finds every line that ends in `# wrong`, and no other."""

import numpy as np

import dfc_numba as dfc

x, target = np.zeros((8, 4)), np.zeros((8, 3))
net = dfc.Network.create([4, 6, 3])
controller = dfc.Controller()

dfc.simulate(1, "x", None, 3.5)  # wrong
dfc.simulate(net, x, target)  # wrong
dfc.simulate(net, x, target, controller, noise="seed")  # wrong
dfc.simulate(net, x, target, controller, record=["u"])  # wrong
dfc.simulate(net, x, target, controller, seed=1)  # wrong
dfc.simulate(net, "x", target, controller)  # wrong
dfc.Network.create(4)  # wrong
dfc.Network.create([4, 6, 3], init="xaver")  # wrong
dfc.Network.create([4, 6, 3], "tanh")  # wrong
dfc.Controller(dt="0.1")  # wrong
dfc.Controller(0.1)  # wrong
dfc.Controller(error="mse")  # wrong
controller.dt = 0.1  # wrong
net.sizes = (4, 6, 3)  # wrong
net.biases[0]  # wrong
net.set_feedback("jacobian")  # wrong
dfc.forward_update(net, x, target, controller, readout="mean")  # wrong
dfc.forward_update(net, x, target, controller, samples=3)  # wrong
dfc.forward_update(net, x, target, controller).feedback  # wrong
dfc.steady_state(net, x, target, controller, method="euler")  # wrong
dfc.reference_update(net, x, target, "backprop")  # wrong
dfc.alignment(net.feedback, dfc.forward_update(net, x, target, controller))  # wrong
dfc.Trajectory.load("file.h5").save("out.h5", compression="zip")  # wrong
dfc.register("softsign")  # wrong
dfc.Activation("softsign", phi="v / (1 + abs(v))", derivative=abs)  # wrong
dfc.load_config(1)  # wrong
dfc.train("digits", epochs=2)  # wrong
dfc.simulat(net, x, target, controller)  # wrong
