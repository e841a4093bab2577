"""The learning methods: names, the gradients that they use, and the phases that a training loop runs.

A method is an entry of the table `METHODS`. Its gradient functions take (network, minibatch, config) and
return the `Gradients` that an optimiser descends along. Those of the DFC family are -2 times the plasticity
update of the forward weights and -1 times that of the feedback weights: these are the gradients that the
published learning rates, epsilons and clipping norms refer to.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from dfc_numba.configuration.config_usage import is_single_phase
from dfc_numba.dynamics.plasticity import (
    feedback_update,
    forward_and_feedback_update,
    forward_update,
    one_shot_feedback_update,
)
from dfc_numba.learning import baselines
from dfc_numba.learning.errors import update_options
from dfc_numba.learning.evaluation import soft_targets
from dfc_numba.learning.inversion import from_errors, from_loops, restabilise
from dfc_numba.learning.optimizers import Gradients
from dfc_numba.model.targets import output_target
from dfc_numba.support.validation import choice

TWO_PHASES = ("pretraining", "feedback", "forward", "extra feedback")
SINGLE_PHASE = ("pretraining", "forward", "extra feedback")
FORWARD_ONLY = ("forward",)


@dataclass(frozen=True, kw_only=True)
class Minibatch:
    """One minibatch, and where in training it is met.

    Attributes:
        phase: one of `TWO_PHASES`.
        epoch: number of the epoch, from 1; the epochs of the pre-training are counted on their own.
        position: number of the minibatch in its pass over the data, from 1.
        number: running number of the minibatch since the start of training, from 0: the noise key's.
        indices: (B,) which samples of the training set these are.
        x, y: inputs (B, n_0) in the network's dtype; targets (B, n_L), for a classification soft labels.
        noise: where there is noise: a `NoiseKey`, or a list of arrays (T, B, n_i), for the one-shot rule (B, n_i).
        nudge: step of a weak output target, for one sample.
        activity: the feedforward activity of x, where it is known already.
        log: the `Logger` that notes its update, None where it is not logged.
        tally: the `Tally` that counts its diverged feedback phases, None where nobody asks.
    """

    phase: str
    epoch: int
    position: int
    number: int
    indices: np.ndarray
    x: np.ndarray
    y: np.ndarray
    noise: object = None
    nudge: float = 0.0
    activity: object = None
    log: object = None
    tally: object = None

    def made(self, function, network, *arguments, **options):
        """What a function that updates makes of the minibatch; noted where it is logged, counted where there is a tally."""
        if self.log is None:
            update = function(network, self.x, *arguments, **options)
        else:
            update = self.log.updated(function, network, self, *arguments, **options)
        if self.tally is not None:
            self.tally.count(*(update if isinstance(update, tuple) else (update,)))
        return update


def nudge(target, count):
    """The step of a weak output target for one of `count` samples; target: the section of the configuration."""
    return target.step / (count if target.step_per == "minibatch" else 1)


def minibatch_of(split, indices, network, config, **where):
    """The `Minibatch` of some samples of a `Split`, nudged as the configuration says; `where`: its other attributes."""
    target = config.target
    return Minibatch(
        indices=indices,
        x=np.asarray(split.x[indices], network.dtype),
        y=soft_targets(split.y[indices], network.sizes[-1], target.class_value),
        nudge=nudge(target, len(indices)),
        **where,
    )


@dataclass(frozen=True, kw_only=True)
class Method:
    """A learning method as data.

    Attributes:
        summary: one line for a list of methods.
        forward: gradient function of the phase "forward". What it returns decides which optimisers step.
        feedback: gradient function of the other phases.
        phases: which phases the loop runs, in this order: "pretraining" before the first epoch, the others in
            each epoch.
        simulates: whether the phase "forward" simulates the controller.
        inverts: whether it runs the loops of dynamic inversion.
        after_step: function of (network, config) that follows each step of the forward weights.
    """

    summary: str
    forward: Callable
    feedback: Callable | None = None
    phases: tuple = FORWARD_ONLY
    simulates: bool = False
    inverts: bool = False
    after_step: Callable | None = None

    def gradients(self, network, minibatch, config):
        """The gradients of this method for one minibatch, in the phase of the minibatch."""
        function = self.forward if minibatch.phase == "forward" else self.feedback
        return function(network, minibatch, config)

    def steps(self, phase, config):
        """How many steps a minibatch of this phase simulates (for estimates of time); 0 where there is no simulation."""
        if self.inverts:
            return config.inversion.steps
        simulates = self.simulates if phase == "forward" else config.feedback.rule == "noise_driven"
        return _controller(phase, config).steps if simulates else 0


def find(name):
    """The `Method` of this name; a ValueError with the nearest name for an unknown one."""
    return METHODS[choice("training.method", name, tuple(METHODS))]


def controlled(network, minibatch, config, *, readout):
    """-2 times the DFC update of weights and biases (Meulemans et al. 2021; strong targets: 2022)."""
    update = minibatch.made(
        forward_update,
        network,
        pursued_target(network, minibatch, config),
        config.controller,
        readout=readout,
        rule=config.training.rule,
        samples=config.training.samples,
        noise=minibatch.noise if config.controller.noisy else None,
    )
    return _forward_gradients(update)


def single_phase(network, minibatch, config):
    """-2 times the update of weights and biases, -1 times that of the feedback weights, from one noisy simulation.

    Feedback weights that do not learn have no gradient (Strong-DFC, Meulemans et al. 2022).
    """
    if not config.feedback.train:
        return controlled(network, minibatch, config, readout="average")
    forward, feedback = minibatch.made(
        forward_and_feedback_update,
        network,
        pursued_target(network, minibatch, config),
        config.controller,
        rule=config.training.rule,
        samples=config.training.samples,
        noise=minibatch.noise,
        **_feedback_options(config),
    )
    return replace(_forward_gradients(forward), feedback=_scaled(feedback.feedback, -1))


def from_noise(network, minibatch, config):
    """Minus the update of the feedback weights in a feedback phase, by the rule of the configuration."""
    update = FEEDBACK_RULES[config.feedback.rule](network, minibatch, config)
    return Gradients(feedback=_scaled(update.feedback, -1))


def noise_driven(network, minibatch, config):
    """The update of the feedback weights from a noisy simulation with constant output target (Meulemans et al. 2021).

    Pre-training controls the difference r* - r_L also where training controls r* - softmax(r_L).
    """
    controller = _controller(minibatch.phase, config)
    if minibatch.phase == "pretraining":
        controller = replace(controller, error="difference")
    pursued = _output if config.feedback.pursue == "output" else pursued_target
    return minibatch.made(
        feedback_update,
        network,
        pursued(network, minibatch, config),
        controller,
        noise=minibatch.noise,
        **_feedback_options(config),
    )


def one_shot(network, minibatch, config):
    """The update of the feedback weights from noise in a forward pass (code of Meulemans et al. 2021)."""
    return minibatch.made(
        one_shot_feedback_update,
        network,
        sigma=config.feedback_controller.sigma,
        noise=minibatch.noise,
        sigma_floor=config.feedback.sigma_floor,
    )


def from_loss(network, minibatch, config, *, gradient):
    """The gradient of the mean loss, by one of the baselines."""
    return gradient(
        network,
        minibatch.x,
        minibatch.y,
        loss=config.target.loss,
        activity=minibatch.activity,
        **update_options(config),
    )


def _controller(phase, config):
    """The controller of a phase; single-phase learning has one of its own for the pre-training only."""
    if phase == "forward" or (phase == "extra feedback" and is_single_phase(config)):
        return config.controller
    return config.feedback_controller


def pursued_target(network, minibatch, config):
    """The output target that the forward phase pursues."""
    if config.target.feedback == "strong":
        return minibatch.y
    return output_target(network, minibatch.x, minibatch.y, loss=config.target.loss, step=minibatch.nudge)


def _output(network, minibatch, _config):
    """The feedforward output, in the precision that an output target needs."""
    return network.predict(minibatch.x, dtype="float64")


def _feedback_options(config):
    options = config.feedback
    return {key: getattr(options, key) for key in ("scaling", "high_pass", "sigma_floor")}


def _forward_gradients(update):
    biases = None if update.biases is None else _scaled(update.biases, -2)
    return Gradients(weights=_scaled(update.weights, -2), biases=biases)


def _scaled(arrays, factor):
    """The arrays, multiplied in place."""
    for array in arrays:
        array *= factor
    return arrays


FEEDBACK_RULES = {"noise_driven": noise_driven, "one_shot": one_shot}


def _two_phases(summary, *, readout, simulates):
    """A method with feedback phases of its own; such methods differ in what they read the forward update from."""
    forward = partial(controlled, readout=readout)
    return Method(
        summary=summary, forward=forward, feedback=from_noise, phases=TWO_PHASES, simulates=simulates
    )


METHODS = {
    "dfc": _two_phases(
        "Deep Feedback Control: the update is averaged over the feedback phase",
        readout="average",
        simulates=True,
    ),
    "dfc-ss": _two_phases(
        "DFC-SS: the update is taken at the end of the feedback phase", readout="final", simulates=True
    ),
    "dfc-ss-newton": _two_phases(
        "DFC-SS at the steady state of the feedback phase, found by Newton's method",
        readout="newton",
        simulates=False,
    ),
    "dfc-ssa": _two_phases(
        "DFC-SSA: the update is taken at the linearised steady state, without simulating",
        readout="analytic",
        simulates=False,
    ),
    "dfc-single-phase": Method(
        summary="Strong-DFC in a single phase: forward and feedback weights learn from the same noisy simulation",
        forward=single_phase,
        feedback=from_noise,
        phases=SINGLE_PHASE,
        simulates=True,
    ),
    "bp": Method(
        summary="backpropagation of the loss", forward=partial(from_loss, gradient=baselines.backpropagation)
    ),
    "dfa": Method(
        summary="direct feedback alignment",
        forward=partial(from_loss, gradient=baselines.direct_feedback_alignment),
    ),
    "di": Method(
        summary="dynamic inversion: errors by inverting each layer's weights in a loop",
        forward=from_loops,
        inverts=True,
        after_step=restabilise,
    ),
    "sldi": Method(
        summary="single-loop dynamic inversion: errors by one loop through all layers",
        forward=from_loops,
        inverts=True,
        after_step=restabilise,
    ),
    "ndi": Method(
        summary="non-dynamical inversion: dynamic inversion at rest", forward=partial(from_errors, rule="ndi")
    ),
    "fa": Method(
        summary="feedback alignment, from layer to layer", forward=partial(from_errors, rule="fa")
    ),
    "pbp": Method(
        summary="pseudo-backpropagation: errors by the pseudo-inverse of the weights",
        forward=partial(from_errors, rule="pbp"),
    ),
}
