"""Feedback phases: simulated, and the updates of the weights that they give.

phase.py          packs a minibatch, cuts it into shards, runs the kernel on threads, merges
simulation.py     trajectories
plasticity.py     forward and feedback updates
waveform.py       the same solved in time, wide_outputs.py for many linear outputs, time_operators.py the matrices in time
recipe.py         what determines a simulated minibatch
"""
