"""A fast CPU simulator of Deep Feedback Control (Meulemans et al., NeurIPS 2021), compiled with Numba.

    network.py, controller.py, targets.py, noise.py    what is simulated
    simulation.py, plasticity.py, equilibrium.py       trajectories, updates of the weights, the steady state
    training.py, cli.py, ...                           training loops, and the command `dfc`
    kernels/, data/                                    the compiled layer; data sets

Names are loaded when they are first used, so that importing the package costs little.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from dfc_numba._version import __version__

if TYPE_CHECKING:  # what editors and type checkers see
    from dfc_numba.controller import Controller as Controller
    from dfc_numba.equilibrium import SteadyState as SteadyState
    from dfc_numba.equilibrium import output_jacobian as output_jacobian
    from dfc_numba.equilibrium import steady_state as steady_state
    from dfc_numba.errors import DivergenceError as DivergenceError
    from dfc_numba.network import Activity as Activity
    from dfc_numba.network import Network as Network
    from dfc_numba.noise import NoiseKey as NoiseKey
    from dfc_numba.online import OnlineRun as OnlineRun
    from dfc_numba.online import simulate_online as simulate_online
    from dfc_numba.plasticity import FeedbackUpdate as FeedbackUpdate
    from dfc_numba.plasticity import ForwardUpdate as ForwardUpdate
    from dfc_numba.plasticity import feedback_update as feedback_update
    from dfc_numba.plasticity import forward_and_feedback_update as forward_and_feedback_update
    from dfc_numba.plasticity import forward_update as forward_update
    from dfc_numba.plasticity import one_shot_feedback_update as one_shot_feedback_update
    from dfc_numba.simulation import Record as Record
    from dfc_numba.simulation import Trajectory as Trajectory
    from dfc_numba.simulation import simulate as simulate
    from dfc_numba.plots import plot as plot
    from dfc_numba.storage.reader import open_trajectories as open_trajectories
    from dfc_numba.storage.replay import replay as replay
    from dfc_numba.storage.resimulation import expand as expand
    from dfc_numba.storage.resimulation import what_if as what_if
    from dfc_numba.targets import output_target as output_target
    from dfc_numba.threads import limit_threads as limit_threads

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
    "one_shot_feedback_update": "plasticity",
    "ForwardUpdate": "plasticity",
    "FeedbackUpdate": "plasticity",
    "simulate_online": "online",
    "OnlineRun": "online",
    "steady_state": "equilibrium",
    "SteadyState": "equilibrium",
    "output_jacobian": "equilibrium",
    "open_trajectories": "storage.reader",
    "replay": "storage.replay",
    "expand": "storage.resimulation",
    "what_if": "storage.resimulation",
    "plot": "plots",
    "limit_threads": "threads",
    "DivergenceError": "errors",
}
__all__ = ["__version__"] + list(_HOMES)


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module 'dfc_numba' has no attribute {name!r}")
    value = getattr(import_module(f"dfc_numba.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__all__})
