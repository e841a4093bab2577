"""The learning methods of the package, and their gradient functions.

Those of the DFC family are -2 times the plasticity update of the forward weights and -1 times that of the feedback weights:
these are the gradients that the published learning rates, epsilons and clipping norms refer to.
"""

from dataclasses import replace
from functools import partial

import numpy as np

from dfc_numba.dynamics.expected_feedback import expected_feedback_update
from dfc_numba.dynamics.plasticity import (
    feedback_update,
    forward_and_feedback_update,
    forward_update,
    one_shot_feedback_update,
)
from dfc_numba.learning import baselines
from dfc_numba.learning.evaluation import soft_targets
from dfc_numba.learning.inversion_methods import create_backward, from_errors, from_loops, restabilise
from dfc_numba.learning.method import (
    CHAIN,
    DIRECT,
    SINGLE_PHASE,
    TWO_PHASES,
    Gradients,
    Method,
    Minibatch,
    PlannedUpdate,
)
from dfc_numba.learning.modulation import factors_on_the_way
from dfc_numba.learning.phases import EXPECTED, ONE_SHOT, simulation_of
from dfc_numba.learning.signals import update_options
from dfc_numba.model.network import feedforward_state
from dfc_numba.model.targets import output_target
from dfc_numba.model.unit_formulas import NOISE_DRIVEN
from dfc_numba.registry import METHODS, register_built_ins


def nudge(target, count):
    """Return the step of a weak output target for one of `count` samples; target: the section of the configuration."""
    return target.step / (count if target.step_per == "minibatch" else 1)


def minibatch_of(split, indices, network, config, **where):
    """Return the `Minibatch` of some samples of a `Split`, nudged as configured; `where`: its other attributes."""
    target = config.target
    return Minibatch(
        indices=indices,
        x=np.asarray(split.x[indices], network.dtype),
        y=soft_targets(split.y[indices], network.sizes[-1], target.class_value),
        nudge=nudge(target, len(indices)),
        **where,
    )


def find(name):
    """Return the `Method` of this name; a ValueError with the nearest name for an unknown one."""
    return METHODS.find(name, key="training.method")


def controlled(network, minibatch, config, *, readout):
    """Return -2 times the DFC update of weights and biases (Meulemans et al. 2021; strong targets: 2022)."""
    options = {
        "readout": readout,
        "rule": config.training.rule,
        "samples": config.training.samples,
        "noise": minibatch.noise if config.controller.noisy else None,
    }
    arguments = (pursued_target(network, minibatch, config), config.controller)
    return PlannedUpdate(forward_update, _forward_gradients, arguments, options)


def single_phase(network, minibatch, config):
    """Return -2 times the forward update, -1 times that of the feedback weights, from one noisy simulation.

    Feedback weights that do not learn have no gradient (Strong-DFC, Meulemans et al. 2022).
    """
    if not config.feedback.train:
        return controlled(network, minibatch, config, readout="average")
    options = {
        "rule": config.training.rule,
        "samples": config.training.samples,
        "noise": minibatch.noise,
        **_feedback_options(config),
    }
    arguments = (pursued_target(network, minibatch, config), config.controller)
    return PlannedUpdate(forward_and_feedback_update, _both_gradients, arguments, options)


def from_noise(network, minibatch, config):
    """Return minus the update of the feedback weights in a feedback phase, by the configured rule."""
    learn = {ONE_SHOT: one_shot, EXPECTED: expected}.get(config.feedback.rule, noise_driven)
    return learn(network, minibatch, config)


def noise_driven(network, minibatch, config):
    """Return the feedback update from a noisy simulation with constant output target (Meulemans et al. 2021).

    Pre-training controls the difference r* - r_L also where training controls r* - softmax(r_L).
    """
    controller = getattr(config, simulation_of(minibatch.phase, config))
    if minibatch.phase == "pretraining":
        controller = replace(controller, error="difference")
    pursued = _output if pursuit(minibatch.phase, config) == "output" else pursued_target
    options = {"noise": minibatch.noise, **_feedback_options(config)}
    arguments = (pursued(network, minibatch, config), controller)
    return PlannedUpdate(feedback_update, _feedback_gradients, arguments, options)


def pursuit(phase, config):
    """Return what the feedback epochs of a phase pursue: "output" or "target"."""
    feedback = config.feedback
    return (feedback.pretraining_pursue if phase == "pretraining" else None) or feedback.pursue


def one_shot(network, minibatch, config):
    """Return the feedback update from noise in a forward pass (code of Meulemans et al. 2021)."""
    options = {
        "sigma": config.feedback_controller.sigma,
        "noise": minibatch.noise,
        "sigma_floor": config.feedback.sigma_floor,
    }
    return PlannedUpdate(one_shot_feedback_update, _feedback_gradients, options=options)


def expected(network, minibatch, config):
    """Return the mean of the noise-driven update over the noise, around the feedforward output, without simulating.

    The controlled error is the difference r* - r_L: no other has the feedforward output as its target.
    """
    form = config.feedback.form
    noise = minibatch.noise if form == "one_probe" else None
    options = {"form": form, "noise": noise, **_feedback_options(config)}
    controller = replace(config.feedback_controller, error="difference")
    arguments = (_output(network, minibatch, config), controller)
    return PlannedUpdate(expected_feedback_update, _feedback_gradients, arguments, options)


def from_loss(network, minibatch, config, *, gradient, **options):
    """Return the gradient of the mean loss, by one of the baselines."""
    options |= {"loss": config.target.loss, "activity": minibatch.activity, **update_options(config)}
    return gradient(network, minibatch.x, minibatch.y, **options)


def backpropagated(network, minibatch, config):
    """Return the gradient of the mean loss by backpropagation, whose errors may be modulated on their way."""
    factors = factors_on_the_way(network, config)
    return from_loss(network, minibatch, config, gradient=baselines.backpropagation, factors=factors)


def pursued_target(network, minibatch, config):
    """Return the output target of the forward phase."""
    if config.target.feedback == "strong":
        return minibatch.y
    return output_target(network, minibatch.x, minibatch.y, loss=config.target.loss, step=minibatch.nudge)


def _output(network, minibatch, _config):
    """Return the feedforward output, in the precision that an output target needs."""
    return feedforward_state(network, minibatch.x)[1].r[-1]


def _feedback_options(config):
    options = {key: getattr(config.feedback, key) for key in ("scaling", "high_pass", "sigma_floor")}
    rule = config.feedback.rule
    return options if rule in (NOISE_DRIVEN, EXPECTED) else {**options, "feedback_rule": rule}


def _forward_gradients(update):
    biases = None if update.biases is None else _scaled(update.biases, -2)
    return Gradients(weights=_scaled(update.weights, -2), biases=biases)


def _feedback_gradients(update):
    return Gradients(feedback=_scaled(update.feedback, -1))


def _both_gradients(updates):
    forward, feedback = updates
    return replace(_forward_gradients(forward), feedback=_feedback_gradients(feedback).feedback)


def _scaled(arrays, factor):
    """Return the arrays, multiplied in place."""
    for array in arrays:
        array *= factor
    return arrays


# --- the methods ---------------------------------------------------------------------------------------------------------

FEEDBACK_INIT = ("network.feedback_init", "network.feedback_noise", "network.feedback_damping")
TARGET = ("target.feedback", "target.step", "target.step_per")
SAMPLES = ("training.clip_error", "training.normalise_updates")
FEEDBACK_LEARNING = ("feedback", "feedback_controller", "feedback_optimizer")
DFC = (*FEEDBACK_INIT, *TARGET, *FEEDBACK_LEARNING, "training.rule", "log")
SIMULATED = (*DFC, "controller", "training.samples")
SOLVED = (*DFC, "controller.alpha", "controller.leak", "controller.k_p")
FEEDBACK_PHASES = dict.fromkeys(("pretraining", "feedback", "extra feedback"), "feedback_controller")
LOOP = tuple(
    f"inversion.{key}" for key in ("alpha", "dt", "steps", "nonlinearity", "restabilise", "feedback")
)


def _linearised_around_output(config):
    """Yield the rule that the linearisation holds around the feedforward output."""
    yield (
        config.target.feedback == "strong",
        "training.method = 'dfc-ssa' is linearised around the feedforward output, from which a strong target is far; set "
        "target.feedback = 'weak', or training.method = 'dfc-ss'",
    )


def _two_phases(name, summary, *, readout, reads=SIMULATED, **options):
    """Return a method with feedback phases, which differ in where the forward update is read from."""
    return Method(
        name, summary=summary, forward=partial(controlled, readout=readout), feedback=from_noise, phases=TWO_PHASES,
        reads=reads, simulations=FEEDBACK_PHASES | ({"forward": "controller"} if reads == SIMULATED else {}),
        error_path=DIRECT, **options,
    )  # fmt: skip


def _loop(name, summary):
    return Method(
        name, summary=summary, forward=from_loops, simulations={"forward": "inversion"}, prepare=create_backward,
        after_step=restabilise, reads=(*SAMPLES, *LOOP, "log"),
    )  # fmt: skip


def _rule(name, summary, *keys, prepare=create_backward):
    reads = (*SAMPLES, *(f"inversion.{key}" for key in keys))
    return Method(
        name, summary=summary, forward=partial(from_errors, rule=name), prepare=prepare, reads=reads, error_path=CHAIN
    )  # fmt: skip


register_built_ins(
    _two_phases("dfc", "Deep Feedback Control: the update is averaged over the feedback phase", readout="average"),
    _two_phases("dfc-ss", "DFC-SS: the update is taken at the end of the feedback phase", readout="final"),
    _two_phases(
        "dfc-ss-newton", "DFC-SS at the steady state of the feedback phase, found by Newton's method", readout="newton",
        reads=(*SOLVED, "controller.error", "controller.jacobian_feedback", "training.samples"),
    ),
    _two_phases(
        "dfc-ssa", "DFC-SSA: the update is taken at the linearised steady state, without simulating", readout="analytic",
        reads=(*SOLVED, "controller.jacobian_feedback"), rules=_linearised_around_output,
    ),
    Method(
        "dfc-single-phase",
        summary="Strong-DFC in a single phase: forward and feedback weights learn from the same noisy simulation",
        forward=single_phase, feedback=from_noise, phases=SINGLE_PHASE, single_phase=True, reads=SIMULATED, error_path=DIRECT,
        simulations={
            "forward": "controller", "pretraining": "feedback_controller", "extra feedback": "controller",
        },
    ),
    Method(
        "bp", summary="backpropagation of the loss", forward=backpropagated, reads=SAMPLES, error_path=CHAIN,
    ),
    Method(
        "dfa", summary="direct feedback alignment", error_path=DIRECT, reads=(*SAMPLES, *FEEDBACK_INIT),
        forward=partial(from_loss, gradient=baselines.direct_feedback_alignment),
    ),
    _loop("di", "dynamic inversion: errors by inverting each layer's weights in a loop"),
    _loop("sldi", "single-loop dynamic inversion: errors by one loop through all layers"),
    _rule("ndi", "non-dynamical inversion: dynamic inversion at rest", "alpha", "feedback"),
    _rule("fa", "feedback alignment, from layer to layer", "feedback"),
    _rule("pbp", "pseudo-backpropagation: errors by the pseudo-inverse of the weights", prepare=None),
)  # fmt: skip
