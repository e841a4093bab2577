"""Weights that learn during the simulation of a stream.

learning.py                  `simulate_online`
stream.py                    samples over time
simulation.py, memory.py     running the kernel in chunks; what goes from one chunk to the next
records.py                   trajectories of the state and of the weights
"""
