"""Feedback phases: simulated, and the updates of the weights that they give.

phase.py          packs a minibatch, cuts it into shards, runs the kernel on threads, merges
simulation.py     trajectories
plasticity.py     forward and feedback updates
recipe.py         what determines a simulated minibatch
"""
