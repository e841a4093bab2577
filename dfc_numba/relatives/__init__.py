"""Relatives of DFC: other ways to assign credit, on the same networks, data, optimisers and measurements.

target_propagation.py        difference target propagation with the difference reconstruction loss, Gauss-Newton targets
equilibrium_propagation.py   free and nudged phases of an energy model or a vector field
equilibrium_energy.py, equilibrium_newton.py, equilibrium_trajectory.py    energies; exact equilibria; recorded states
least_control.py             dynamic inversion, Kolen-Pollack and linear feedback of the least-control principle
grapes.py                    node responsibilities that modulate the error of any method
"""
