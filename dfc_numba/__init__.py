"""A fast CPU simulator of Deep Feedback Control (Meulemans et al., NeurIPS 2021), compiled with Numba.

Names are loaded when they are first used, so that importing the package costs little.
"""

from importlib import import_module

from dfc_numba._version import __version__

_HOMES = {
    "Network": "network",
    "Activity": "network",
    "Controller": "controller",
    "output_target": "targets",
    "simulate": "simulation",
    "Record": "simulation",
    "Trajectory": "simulation",
    "NoiseKey": "noise",
    "forward_update": "plasticity",
    "feedback_update": "plasticity",
    "forward_and_feedback_update": "plasticity",
    "ForwardUpdate": "plasticity",
    "FeedbackUpdate": "plasticity",
    "steady_state": "equilibrium",
    "SteadyState": "equilibrium",
    "output_jacobian": "equilibrium",
    "limit_threads": "threads",
    "DivergenceError": "errors",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module 'dfc_numba' has no attribute {name!r}")
    value = getattr(import_module(f"dfc_numba.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__all__})
