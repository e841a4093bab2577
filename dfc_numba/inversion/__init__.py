"""Dynamic inversion (Podlaski & Machens 2020): errors reach the hidden layers by inverting the forward weights.

rules.py           `backward_errors`: dynamic inversion and the rules that it is compared with
problem.py         what all rules are given, checked
loops.py           loops of populations, and their dynamics by the compiled kernels
equilibrium.py     the same loops at rest
"""
