"""Training: methods, optimisers, passes over the data, and the loop that runs them.

training.py                  `Trainer`: epochs of phases of minibatches
methods.py, baselines.py     the table of methods; backpropagation and direct feedback alignment
inversion.py, errors.py      learning by dynamic inversion; from errors of layers to gradients
optimizers.py                SGD, Adam and decay of packed parameters
schedule.py                  orders of samples
evaluation.py, divergence.py    losses and accuracies; when a run is stopped
state.py                     everything that evolves
"""
