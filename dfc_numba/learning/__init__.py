"""Training: methods, optimisers, passes over the data, and the loop that runs them.

training.py                      `Trainer`: epochs of phases of minibatches
method.py, phases.py             `Method`, `Minibatch`, `Gradients`; which phases there are, and what each simulates
methods.py, baselines.py         the methods of the DFC family; backpropagation and direct feedback alignment
inversion_methods.py             learning by dynamic inversion
relatives.py, recurrent_methods.py    the relatives of DFC; least control of a recurrent layer
equilibrium_methods.py           equilibrium propagation
named_arrays.py                  the arrays of a method as dicts by name
signals.py                       from errors of layers to gradients
optimizer.py, descent.py         `Optimizer`, SGD, Adam and RMSprop; the descent of a network's arrays with clipping and decay
schedule.py                      orders of samples
evaluation.py, divergence.py     losses and accuracies; when a run is stopped
state.py                         everything that evolves
"""
