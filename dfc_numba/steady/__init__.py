"""The steady state of a feedback phase without simulating it.

equilibrium.py                   linearised, or exact by Newton's method: `steady_state`
newton.py, rest_equation.py      Newton's method on the equation of rest
response.py, krylov.py           the network's response to u and its Jacobian; solvers without matrices
"""
