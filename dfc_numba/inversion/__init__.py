"""Dynamic inversion (Podlaski & Machens 2020): errors reach the hidden layers by inverting the forward weights.

rules.py           `backward_errors`: dynamic inversion and the rules that it is compared with
problem.py         what all rules are given, checked
trajectory.py      the states of its loops
simulation.py      dynamic inversion of a network's minibatch, recorded
measures.py        how far a recorded loop is from rest, and how well it inverts
loops.py           loops of populations, and their dynamics by the compiled kernels
equilibrium.py     the same loops at rest
stability.py       whether the loops are stable, in continuous time and in the steps that are taken
feedback.py        feedback matrices: random, from the weights, made stable
"""
