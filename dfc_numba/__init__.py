"""A fast CPU simulator of Deep Feedback Control (Meulemans et al., NeurIPS 2021), compiled with Numba.

    model/, dynamics/, steady/, online/    networks and controllers; feedback phases, updates, steady states, streams
    learning/, configuration/, runs/       training loops; what a run is told; runs on disk, resumed and compared
    storage/, analysis/, inversion/        trajectories and checkpoints in HDF5; what the theory says; dynamic inversion
    session.py, cli.py, commands/, display/    runs from Python; the command `dfc`, and what people see of it
    kernels/, data/, support/              the compiled layer; data sets; small things that everything uses

Names are loaded when they are first used, so that importing the package costs little.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from dfc_numba import storage as _storage
from dfc_numba._version import __version__

if TYPE_CHECKING:  # what editors and type checkers see
    from dfc_numba.analysis.alignment import Alignment as Alignment
    from dfc_numba.analysis.alignment import alignment as alignment
    from dfc_numba.analysis.alignment import loss_decrease as loss_decrease
    from dfc_numba.analysis.conditions import Conditions as Conditions
    from dfc_numba.analysis.conditions import conditions as conditions
    from dfc_numba.analysis.conditions import null_space_fraction as null_space_fraction
    from dfc_numba.analysis.directions import reference_update as reference_update
    from dfc_numba.analysis.measurements import Measure as Measure
    from dfc_numba.analysis.measurements import Measurement as Measurement
    from dfc_numba.analysis.stability import Stability as Stability
    from dfc_numba.analysis.stability import stability as stability
    from dfc_numba.data.sources import DataSource as DataSource
    from dfc_numba.display.plots import plot as plot
    from dfc_numba.display.plotting import plot_comparison as plot_comparison
    from dfc_numba.display.plotting import plot_run as plot_run
    from dfc_numba.display.plotting import plot_trajectory as plot_trajectory
    from dfc_numba.display.progress import ProgressBar as ProgressBar
    from dfc_numba.dynamics.expected_feedback import expected_feedback_update as expected_feedback_update
    from dfc_numba.dynamics.plasticity import FeedbackUpdate as FeedbackUpdate
    from dfc_numba.dynamics.plasticity import ForwardUpdate as ForwardUpdate
    from dfc_numba.dynamics.plasticity import feedback_update as feedback_update
    from dfc_numba.dynamics.plasticity import forward_and_feedback_update as forward_and_feedback_update
    from dfc_numba.dynamics.plasticity import forward_update as forward_update
    from dfc_numba.dynamics.plasticity import one_shot_feedback_update as one_shot_feedback_update
    from dfc_numba.dynamics.simulation import Trajectory as Trajectory
    from dfc_numba.dynamics.simulation import simulate as simulate
    from dfc_numba.errors import DivergenceError as DivergenceError
    from dfc_numba.errors import DivergenceWarning as DivergenceWarning
    from dfc_numba.extensions import load_extension as load_extension
    from dfc_numba.inversion.dynamic_inversion import Inversion as Inversion
    from dfc_numba.inversion.dynamic_inversion import simulate_inversion as simulate_inversion
    from dfc_numba.inversion.feedback import initial_feedback as initial_feedback
    from dfc_numba.inversion.feedback import stabilised_feedback as stabilised_feedback
    from dfc_numba.inversion.loop_stability import InversionStability as InversionStability
    from dfc_numba.inversion.loop_stability import inversion_stability as inversion_stability
    from dfc_numba.inversion.rules import backward_errors as backward_errors
    from dfc_numba.inversion.trajectory import InversionTrajectory as InversionTrajectory
    from dfc_numba.learning.evaluation import Evaluation as Evaluation
    from dfc_numba.learning.evaluation import accuracy as accuracy
    from dfc_numba.learning.evaluation import evaluate as evaluate
    from dfc_numba.learning.inversion_methods import InversionUpdate as InversionUpdate
    from dfc_numba.learning.inversion_methods import inversion_update as inversion_update
    from dfc_numba.learning.method import Gradients as Gradients
    from dfc_numba.learning.method import Method as Method
    from dfc_numba.learning.method import PlannedUpdate as PlannedUpdate
    from dfc_numba.learning.observers import EarlyStopping as EarlyStopping
    from dfc_numba.learning.observers import Observer as Observer
    from dfc_numba.learning.observers import TensorBoard as TensorBoard
    from dfc_numba.learning.optimizer import Optimizer as Optimizer
    from dfc_numba.learning.training import Trainer as Trainer
    from dfc_numba.model.activations import Activation as Activation
    from dfc_numba.model.controller import Controller as Controller
    from dfc_numba.model.controller_terms import ControllerTerm as ControllerTerm
    from dfc_numba.model.network import Activity as Activity
    from dfc_numba.model.network import Network as Network
    from dfc_numba.model.noise_key import NoiseKey as NoiseKey
    from dfc_numba.model.recording import Record as Record
    from dfc_numba.model.targets import Loss as Loss
    from dfc_numba.model.targets import mean_loss as mean_loss
    from dfc_numba.model.targets import output_gradient as output_gradient
    from dfc_numba.model.targets import output_target as output_target
    from dfc_numba.model.unit_formulas import PlasticityRule as PlasticityRule
    from dfc_numba.model.unit_formulas import Variable as Variable
    from dfc_numba.online.learning import OnlineRun as OnlineRun
    from dfc_numba.online.learning import simulate_online as simulate_online
    from dfc_numba.online.online_memory import OnlineState as OnlineState
    from dfc_numba.online.records import WeightTrajectory as WeightTrajectory
    from dfc_numba.registry import Option as Option
    from dfc_numba.registry import register as register
    from dfc_numba.session import Comparison as Comparison
    from dfc_numba.session import TrainingResult as TrainingResult
    from dfc_numba.session import compare as compare
    from dfc_numba.session import load_config as load_config
    from dfc_numba.session import run_sweep as run_sweep
    from dfc_numba.session import train as train
    from dfc_numba.steady.equilibrium import SteadyState as SteadyState
    from dfc_numba.steady.equilibrium import output_jacobian as output_jacobian
    from dfc_numba.steady.equilibrium import steady_state as steady_state
    from dfc_numba.storage.reader import open_trajectories as open_trajectories
    from dfc_numba.storage.replay import expand as expand
    from dfc_numba.storage.replay import replay as replay
    from dfc_numba.storage.replay import what_if as what_if
    from dfc_numba.support.threads import limit_threads as limit_threads

_HOMES = {
    "Activation": "model.activations",
    "PlasticityRule": "model.unit_formulas",
    "Variable": "model.unit_formulas",
    "ControllerTerm": "model.controller_terms",
    "Network": "model.network",
    "Activity": "model.network",
    "Controller": "model.controller",
    "output_target": "model.targets",
    "mean_loss": "model.targets",
    "output_gradient": "model.targets",
    "evaluate": "learning.evaluation",
    "Evaluation": "learning.evaluation",
    "accuracy": "learning.evaluation",
    "load_config": "session",
    "train": "session",
    "TrainingResult": "session",
    "Trainer": "learning.training",
    "Observer": "learning.observers",
    "EarlyStopping": "learning.observers",
    "TensorBoard": "learning.observers",
    "simulate": "dynamics.simulation",
    "Record": "model.recording",
    "Trajectory": "dynamics.simulation",
    "NoiseKey": "model.noise_key",
    "forward_update": "dynamics.plasticity",
    "feedback_update": "dynamics.plasticity",
    "expected_feedback_update": "dynamics.expected_feedback",
    "forward_and_feedback_update": "dynamics.plasticity",
    "one_shot_feedback_update": "dynamics.plasticity",
    "ForwardUpdate": "dynamics.plasticity",
    "FeedbackUpdate": "dynamics.plasticity",
    "simulate_online": "online.learning",
    "OnlineRun": "online.learning",
    "OnlineState": "online.online_memory",
    "WeightTrajectory": "online.records",
    "steady_state": "steady.equilibrium",
    "SteadyState": "steady.equilibrium",
    "output_jacobian": "steady.equilibrium",
    "backward_errors": "inversion.rules",
    "simulate_inversion": "inversion.dynamic_inversion",
    "Inversion": "inversion.dynamic_inversion",
    "InversionTrajectory": "inversion.trajectory",
    "inversion_update": "learning.inversion_methods",
    "InversionUpdate": "learning.inversion_methods",
    "inversion_stability": "inversion.loop_stability",
    "InversionStability": "inversion.loop_stability",
    "initial_feedback": "inversion.feedback",
    "stabilised_feedback": "inversion.feedback",
    "reference_update": "analysis.directions",
    "alignment": "analysis.alignment",
    "Alignment": "analysis.alignment",
    "loss_decrease": "analysis.alignment",
    "conditions": "analysis.conditions",
    "Conditions": "analysis.conditions",
    "null_space_fraction": "analysis.conditions",
    "stability": "analysis.stability",
    "Stability": "analysis.stability",
    "open_trajectories": "storage.reader",
    "replay": "storage.replay",
    "expand": "storage.replay",
    "what_if": "storage.replay",
    "plot": "display.plots",
    "plot_trajectory": "display.plotting",
    "plot_run": "display.plotting",
    "plot_comparison": "display.plotting",
    "ProgressBar": "display.progress",
    "compare": "session",
    "Comparison": "session",
    "run_sweep": "session",
    "limit_threads": "support.threads",
    "DivergenceError": "errors",
    "DivergenceWarning": "errors",
    "register": "registry",
    "Method": "learning.method",
    "Loss": "model.targets",
    "Optimizer": "learning.optimizer",
    "DataSource": "data.sources",
    "Measure": "analysis.measurements",
    "Measurement": "analysis.measurements",
    "Gradients": "learning.method",
    "PlannedUpdate": "learning.method",
    "load_extension": "extensions",
    "Option": "registry",
}
SUBMODULES = ("formulas",)
__all__ = ["__version__"] + list(_HOMES)


if not TYPE_CHECKING:  # which would take every name for one that is there

    def __getattr__(name):
        if name in SUBMODULES:
            return import_module(f"dfc_numba.{name}")
        if name not in _HOMES:
            raise AttributeError(f"module 'dfc_numba' has no attribute {name!r}")
        value = getattr(import_module(f"dfc_numba.{_HOMES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*(name for name in globals() if name.startswith("__")), *__all__, *SUBMODULES, "data"})
