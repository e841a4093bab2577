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

from dfc_numba import baselines
from dfc_numba.optimizers import Gradients
from dfc_numba.plasticity import feedback_update, forward_update
from dfc_numba.targets import output_target
from dfc_numba.validation import choice

TWO_PHASES = ("pretraining", "feedback", "forward", "extra feedback")
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
        noise: for a simulation with noise: a `NoiseKey`, or a list of arrays (T, B, n_i).
        nudge: step of a weak output target, for one sample.
        activity: the feedforward activity of x, where it is known already.
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


@dataclass(frozen=True, kw_only=True)
class Method:
    """A learning method as data.

    Attributes:
        summary: one line for a list of methods.
        forward: gradient function of the phase "forward". What it returns decides which optimisers step.
        feedback: gradient function of the other phases.
        phases: which phases the loop runs, in this order: "pretraining" before the first epoch, the others in
            each epoch.
        simulates: whether the phase "forward" simulates the controller (for estimates of time).
    """

    summary: str
    forward: Callable
    feedback: Callable | None = None
    phases: tuple = FORWARD_ONLY
    simulates: bool = False

    def gradients(self, network, minibatch, config):
        """The gradients of this method for one minibatch, in the phase of the minibatch."""
        function = self.forward if minibatch.phase == "forward" else self.feedback
        return function(network, minibatch, config)


def find(name):
    """The `Method` of this name; a ValueError with the nearest name for an unknown one."""
    return METHODS[choice("training.method", name, tuple(METHODS))]


def controlled(network, minibatch, config, *, readout):
    """-2 times the DFC update of weights and biases (Meulemans et al. 2021; strong targets: 2022)."""
    update = forward_update(
        network,
        minibatch.x,
        _forward_target(network, minibatch, config),
        config.controller,
        readout=readout,
        rule=config.training.rule,
        samples=config.training.samples,
        noise=minibatch.noise if config.controller.noisy else None,
    )
    biases = None if update.biases is None else _scaled(update.biases, -2)
    return Gradients(weights=_scaled(update.weights, -2), biases=biases)


def noise_driven(network, minibatch, config):
    """Minus the update of the feedback weights from noise, in a feedback phase (Meulemans et al. 2021).

    The output target is constant: the feedforward output (weak), or the target itself (strong). Pre-training
    controls the difference r* - r_L also where training controls r* - softmax(r_L).
    """
    controller = config.feedback_controller
    if minibatch.phase == "pretraining":
        controller = replace(controller, error="difference")
    strong = config.target.feedback == "strong"
    update = feedback_update(
        network,
        minibatch.x,
        minibatch.y if strong else network.predict(minibatch.x, dtype="float64"),
        controller,
        noise=minibatch.noise,
        scaling=config.feedback.scaling,
        sigma_floor=config.feedback.sigma_floor,
    )
    return Gradients(feedback=_scaled(update.feedback, -1))


def from_loss(network, minibatch, config, *, gradient):
    """The gradient of the mean loss, by one of the baselines."""
    return gradient(network, minibatch.x, minibatch.y, loss=config.target.loss, activity=minibatch.activity)


def _forward_target(network, minibatch, config):
    if config.target.feedback == "strong":
        return minibatch.y
    return output_target(network, minibatch.x, minibatch.y, loss=config.target.loss, step=minibatch.nudge)


def _scaled(arrays, factor):
    """The arrays, multiplied in place."""
    for array in arrays:
        array *= factor
    return arrays


METHODS = {
    "dfc": Method(
        summary="Deep Feedback Control: the update is averaged over the feedback phase",
        forward=partial(controlled, readout="average"),
        feedback=noise_driven,
        phases=TWO_PHASES,
        simulates=True,
    ),
    "dfc-ss": Method(
        summary="DFC-SS: the update is taken at the end of the feedback phase",
        forward=partial(controlled, readout="final"),
        feedback=noise_driven,
        phases=TWO_PHASES,
        simulates=True,
    ),
    "dfc-ssa": Method(
        summary="DFC-SSA: the update is taken at the linearised steady state, without simulating",
        forward=partial(controlled, readout="analytic"),
        feedback=noise_driven,
        phases=TWO_PHASES,
    ),
    "bp": Method(
        summary="backpropagation of the loss", forward=partial(from_loss, gradient=baselines.backpropagation)
    ),
    "dfa": Method(
        summary="direct feedback alignment",
        forward=partial(from_loss, gradient=baselines.direct_feedback_alignment),
    ),
}
