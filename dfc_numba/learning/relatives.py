"""The relatives of DFC as learning methods: target propagation, least control, GRAPES; see also `equilibrium_methods`.

Their rules are the pure functions of `dfc_numba.relatives`; here they meet the configuration. What they add to the weights is
handed to the optimisers as a gradient, with a minus sign. docs/relatives.md explains them.
"""

from functools import partial
from statistics import NormalDist

import numpy as np

from dfc_numba.learning.equilibrium_methods import EQUILIBRIUM_METHODS
from dfc_numba.learning.method import Gradients, Method
from dfc_numba.learning.named_arrays import listed, negative, numbered, seed_of
from dfc_numba.learning.recurrent_methods import CONTROL, FLAGGED, LOSSES, control_options, control_rules
from dfc_numba.model.noise_key import NoiseKey
from dfc_numba.model.shared_passes import shared_pass
from dfc_numba.registry import Option, register_built_ins
from dfc_numba.relatives import control_learning, equilibrium_propagation, least_control, target_propagation
from dfc_numba.relatives.feedback_mappings import (
    INVERTIBLE,
    FeedbackMappings,
    TargetPropagation,
    reconstruction_update,
)
from dfc_numba.relatives.grapes import Grapes, grapes_update
from dfc_numba.support import ranges

# --- target propagation ---------------------------------------------------------------------------------------------------


def _tp_options(config, rule, step=None):
    return TargetPropagation(
        rule=rule,
        step=config.target.step if step is None else step,
        sigma=config.method.sigma,
        loss=config.target.loss,
        feedback_activation=config.method.get("feedback_activation"),
    )


def _tp_mappings(network, config, *, rule):
    def create():
        return FeedbackMappings.create(
            network, _tp_options(config, rule), units=config.method.get("units", 1024),
            bias=network.biases is not None, init=config.network.init, seed=seed_of(config),
        )  # fmt: skip

    return shared_pass(create, "feedback mappings", network, config)


def _tp_parameters(network, config, *, rule):
    mappings = _tp_mappings(network, config, rule=rule)
    return {**numbered("Q", mappings.weights), **numbered("d", mappings.biases)}


def _tp_state(network, config, *, rule):
    mappings = _tp_mappings(network, config, rule=rule)
    return {"R": mappings.random_weights, "c": mappings.random_biases}


def _tp_of(own):
    return FeedbackMappings.sharing(listed("Q", own), listed("d", own), own.get("R"), own.get("c"))


def _tp_forward(network, minibatch, config, own, *, rule):
    """Return minus the updates towards the targets, and of the mappings by noise, at the parameters before the step."""
    options = _tp_options(config, rule, minibatch.nudge * len(minibatch.x))
    update = target_propagation.target_update(network, _tp_of(own), minibatch.x, minibatch.y, options)
    learned = None
    if config.feedback.train and config.method.schedule == "together":
        learned = _tp_feedback(network, minibatch, config, own, rule=rule).own
    flagged = ~update.targets.usable
    return Gradients(negative(update.weights), negative(update.biases), own=learned, flagged=flagged)


def _tp_feedback(network, minibatch, config, own, *, rule):
    """Return minus the update of the mappings from the reconstruction of noisy states."""
    noise = minibatch.noise
    update = reconstruction_update(
        network, _tp_of(own), minibatch.x, _tp_options(config, rule), noise=noise, activity=minibatch.activity
    )
    return Gradients(
        own={**numbered("Q", negative(update.weights)), **numbered("d", negative(update.biases))}
    )


def _tp_rules(config):
    yield from _invertible(config)
    feedback = config.feedback
    yield (
        config.method.schedule == "alternating" and not (feedback.train and feedback.extra_epochs),
        "method.schedule = 'alternating' leaves the mappings alone while forward weights learn; set feedback.train = true and "
        "feedback.extra_epochs to 1 or more, the epochs in which they learn, or method.schedule = 'together'",
    )


def _gauss_newton(network, minibatch, config):
    targets = target_propagation.gauss_newton_targets(
        network, minibatch.x, minibatch.y, loss=config.target.loss, damping=config.method.damping
    )
    weights, biases = target_propagation.local_updates(network, minibatch.x, targets)
    return Gradients(negative(weights), negative(biases))


def _invertible(config):
    output, loss = config.network.output_activation, config.target.loss
    yield (
        output not in INVERTIBLE,
        f"target propagation inverts the output, and network.output_activation = {output!r} has no inverse here; set it to "
        "'linear' or 'sigmoid'",
    )
    yield (
        loss == "cross_entropy" and output != "linear",
        "target.loss = 'cross_entropy' is that of softmax; set network.output_activation = 'linear'",
    )


NOT_USABLE = (
    "took no part, since their target leaves the range of the sigmoid output; try a smaller target.step, or a linear "
    "output"
)
SIGMA = Option(
    "sigma", 0.1, "standard deviation of the noise that the feedback mappings learn from", ranges.PositiveSigma,
)  # fmt: skip
ACTIVATION = Option(
    "feedback_activation", "tanh", "nonlinearity of the feedback mappings",
    choices=("linear", "tanh", "relu", "leakyrelu", "sigmoid"),
)  # fmt: skip
SCHEDULE = Option(
    "schedule", "together", "when mappings learn after the pre-training; together: at every minibatch, beside the forward "
    "weights, and in the extra feedback epochs; alternating: in these alone", choices=("together", "alternating"),
)  # fmt: skip
UNITS = Option("units", 1024, "units of the fixed random layer that the mappings read", ranges.Count)


def _target_propagation(name, summary, options=(SIGMA,)):
    rule = name.replace("-", "_")
    return Method(
        name, summary=summary, forward=partial(_tp_forward, rule=rule), feedback=partial(_tp_feedback, rule=rule),
        phases=("pretraining", "forward", "extra feedback"), parameters=partial(_tp_parameters, rule=rule),
        state=partial(_tp_state, rule=rule) if rule == "ddtp_rhl" else None, options=(*options, SCHEDULE),
        reads=("target.step", "target.step_per"), rules=_tp_rules, flagged=NOT_USABLE, losses=LOSSES,
    )  # fmt: skip


# --- least control --------------------------------------------------------------------------------------------------------


def _lc_forward(network, minibatch, config, own=None, *, rule):
    """Return minus the update at rest of the controlled network, which alternating passes find."""
    options, pairs = control_options(config, rule), own and [_double(s) for s in listed("S", own)]
    state = least_control.controlled_equilibrium(
        network, minibatch.x, minibatch.y, options, transposed=pairs,
        tolerance=config.method.tolerance, iterations=config.method.passes,
    )  # fmt: skip
    update = control_learning.control_update(
        network, minibatch.x, minibatch.y, options, transposed=pairs, state=state
    )
    learned = None
    if own:
        learned = numbered("S", [-s.astype(network.dtype) for s in update.transposed])
    return Gradients(negative(update.weights), negative(update.biases), own=learned, flagged=update.diverged)


def _kp_parameters(network, config):
    pairs = control_learning.initial_transposed(network, seed=seed_of(config))
    return numbered("S", [s.astype(network.dtype) for s in pairs])


def _kp_decay(network, config, own):
    """Shrink both sides of every pair alike, so that their difference fades."""
    keep = network.dtype.type(1.0 - config.method.pair_decay)
    for array in [*network.weights[1:], *(network.biases or [])[1:], *own.values()]:
        array *= keep


def _lf_parameters(network, config):
    feedback = control_learning.initial_feedback(network, seed=seed_of(config))
    return numbered("Q", [q.astype(network.dtype) for q in feedback])


def _lf_forward(network, minibatch, config, own):
    """Return minus the updates of forward and feedback weights, from a controlled phase and a noisy one."""
    options = control_options(config, "lf")
    feedback = [_double(q) for q in listed("Q", own)]
    state = least_control.controlled_phase(network, minibatch.x, minibatch.y, options, feedback=feedback)
    update = control_learning.control_update(
        network, minibatch.x, minibatch.y, options, feedback=feedback, state=state
    )
    noisy = control_learning.noisy_feedback_update(
        network, minibatch.x, minibatch.y, options, state, feedback=feedback, noise=minibatch.noise
    )
    scale = -options.tau_q / options.dt  # the learning rate of [feedback_optimizer] stands for dt / tau_q
    learned = [(scale * q).astype(network.dtype) for q in noisy.feedback]
    return Gradients(
        negative(update.weights),
        negative(update.biases),
        own=numbered("Q", learned),
        flagged=update.diverged,
    )


def _double(array):
    return np.asarray(array, np.float64)


PASSES = (
    Option("tolerance", 1e-6, "of u at rest, relative", ranges.PositiveTolerance),
    Option("passes", 100, "maximum number of alternating passes to find the fixed point", ranges.Passes),
)
RESTLESS = FLAGGED.replace("method.steps, a smaller method.dt", "method.passes")


# --- GRAPES ---------------------------------------------------------------------------------------------------------------


GRAPES_OUTPUTS = {"cross_entropy": "softmax", "elementwise_cross_entropy": "sigmoid"}


def _grapes_forward(network, minibatch, config, own=None, *, rule):
    method = config.method
    options = Grapes(
        rule=rule, form=method.form, clip=method.clip, keep=method.keep, output=GRAPES_OUTPUTS[config.target.loss]
    )  # fmt: skip
    update = grapes_update(
        network, minibatch.x, minibatch.y, options, feedback=own and listed("B", own),
        masks=_masks(network, minibatch, method.keep),
    )  # fmt: skip
    return Gradients(negative(update.weights), negative(update.biases))


def _masks(network, minibatch, keep):
    """Draw which units each sample keeps, from the counter-based generator."""
    if keep == 1.0:
        return None
    if not isinstance(minibatch.noise, NoiseKey):
        raise ValueError("dropout draws its masks from training.seed; give no noise of your own")
    key, limit = minibatch.noise, NormalDist().inv_cdf(keep)
    draws = equilibrium_propagation.keyed_states(key, len(minibatch.x), network.sizes[1:-1])
    return [(xi < limit).astype(np.float64) for xi in draws]


def _grapes_feedback(network, config, *, rule):
    """Return fixed feedback weights, uniform in +- sqrt(6 / n_l) for the layer that receives them."""
    rng = np.random.default_rng(seed_of(config))
    above = network.sizes[2:] if rule == "fa" else [network.sizes[-1]] * (len(network.sizes) - 2)
    shapes = zip(network.sizes[1:-1], above, strict=True)
    arrays = [rng.uniform(-1, 1, shape) * np.sqrt(6.0 / shape[0]) for shape in shapes]
    return numbered("B", [array.astype(network.dtype) for array in arrays])


def _grapes_rules(config):
    loss, output = config.target.loss, config.network.output_activation
    yield (
        (loss, output) not in (("cross_entropy", "linear"), ("elementwise_cross_entropy", "sigmoid")),
        f"GRAPES' error is output - y, of softmax or sigmoid outputs; target.loss = {loss!r} with network.output_activation = "
        f"{output!r} has another; set target.loss = 'cross_entropy' with 'linear', or 'elementwise_cross_entropy' with 'sigmoid'",
    )
    clip = config.method.clip
    yield (
        clip is not None and (len(clip) != 2 or not 0 <= clip[0] <= clip[1]),
        f'method.clip = {clip}; give two numbers 0 <= low <= high, such as [1.0, 2.0], or "none"',
    )
    modulation = getattr(config.optimizer, "modulation", None)
    yield (
        modulation is not None and config.method.form != "none",
        f"optimizer.modulation = {modulation!r} would modulate a second time what method.form = {config.method.form!r} has "
        "modulated; leave one of them out",
    )
    yield (
        config.training.method == "grapes-dfa" and config.method.form == "local",
        "method.form = 'local' is not for grapes-dfa, whose errors come straight from the output; set it to 'propagating', or to "
        "'none' with optimizer.modulation = 'grapes', which scales rows",
    )


def _grapes(name, summary, rule):
    own = {} if rule == "bp" else {"state": partial(_grapes_feedback, rule=rule)}
    return Method(
        name, summary=summary, forward=partial(_grapes_forward, rule=rule), rules=_grapes_rules, **own,
        options=(
            Option("form", "propagating", "how factors act; none: without GRAPES", choices=("propagating", "local", "none")),
            Option("clip", (1.0, 2.0) if rule == "bp" else None, "bounds of the factors", type=tuple, optional=True),
            Option("keep", 1.0, "probability that a hidden unit is kept (dropout)", ranges.KeptFraction),
        ),
    )  # fmt: skip


register_built_ins(
    _target_propagation("ddtp-linear", "direct difference target propagation with linear feedback mappings"),
    _target_propagation(
        "ddtp-rhl", "direct difference target propagation through a fixed random hidden layer", (SIGMA, ACTIVATION, UNITS)
    ),
    _target_propagation("ddtp-control", "direct linear target propagation whose mappings learn by plain reconstruction"),
    _target_propagation(
        "dtpdrl", "difference target propagation, layer by layer, with the difference reconstruction loss", (SIGMA, ACTIVATION)
    ),
    _target_propagation(
        "dtp", "difference target propagation, layer by layer, with layerwise reconstruction", (SIGMA, ACTIVATION)
    ),
    Method(
        "gnt", summary="Gauss-Newton targets, which target propagation approximates", forward=_gauss_newton, rules=_invertible,
        losses=LOSSES,
        options=(Option("damping", 0.1, "gamma in J^T (J J^T + gamma I)^-1; 0: pseudo-inverse", ranges.Damping),),
    ),
    *EQUILIBRIUM_METHODS,
)  # fmt: skip
register_built_ins(
    Method(
        "lcp-di", summary="least control by dynamic inversion: J^T u feedback at rest", forward=partial(_lc_forward, rule="di"),
        options=(*CONTROL, *PASSES), rules=control_rules, flagged=RESTLESS, losses=LOSSES,
    ),
    Method(
        "lcp-kp", summary="least control with feedback that learns like its forward partner (Kolen-Pollack)",
        forward=partial(_lc_forward, rule="kp"), parameters=_kp_parameters, after_step=_kp_decay, rules=control_rules,
        flagged=RESTLESS, losses=LOSSES,
        options=(
            *CONTROL, *PASSES,
            Option("pair_decay", 1e-6, "fraction that both sides of a pair lose in a step", ranges.UpToOne),
        ),
    ),
    Method(
        "lcp-lf", summary="least control by linear feedback that learns from noise", forward=_lf_forward, rules=control_rules,
        flagged=FLAGGED, losses=LOSSES, parameters=_lf_parameters,
        options=(
            *CONTROL,
            Option("dt", 1.0, "Euler step", ranges.TimeStep), Option("steps", 800, "most steps of a phase", ranges.Steps),
            Option("tolerance", 1e-6, "relative change in a step at which the phase ends", ranges.Tolerance),
            Option("sigma", 0.01, "standard deviation of the noise", ranges.PositiveSigma),
            Option("speed", 5.0, "factor by which output and controller are slower in the noisy phase", ranges.Slowdown),
            Option("tau_noise", 1.0, "time constant of the noise", ranges.TimeConstant),
        ),
    ),
    _grapes("grapes-bp", "backpropagation whose errors node responsibilities modulate (GRAPES)", "bp"),
    _grapes("grapes-fa", "feedback alignment with GRAPES", "fa"),
    _grapes("grapes-dfa", "direct feedback alignment with GRAPES", "dfa"),
)  # fmt: skip
