"""Measures of the theory, for a network and for what a run has learned.

directions.py, alignment.py         updates to compare with, and angles between updates
conditions.py, control.py           of the theorems; the control signal and its effort
stability.py                        of the controlled network, in continuous time and as it is simulated
least_norm.py, linear_response.py   what the former are made of: least-norm changes, products with Jacobians
linearisation.py, closed_loop.py, spectrum.py, published_systems.py     ... and the latter: systems, their eigenvalues
measurements.py, probe.py           all of this by name, for a network, a batch and the update made of it
monitor.py, results.py              measuring while training; many measurements as arrays and tables
offline.py                          trajectories: updates, convergence, residuals, statistics
"""
