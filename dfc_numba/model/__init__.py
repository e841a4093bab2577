"""The model: networks, the controller that acts on them, targets and noise.

network.py, network_file.py     the parameters of a network, its feedforward pass, its file
activations.py, jacobian.py     activation functions and their derivatives, Jacobians of the output
initialization.py               initial weights and feedback weights
controller.py, targets.py       the options of a feedback phase, and the target that it pursues
noise.py                        which draws a sample gets
"""
