"""Least control of one recurrent layer at equilibrium as learning methods: v = W phi(v) + b_rec + U x + b, o = D phi(v) + c.

`network.hidden` names the layer: U, b, D, c are the weights and biases of the network, W and b_rec parameters of the method's
own that learn with U and b. Gradients are -1 times the updates of `control_update` at the end of a controlled phase, or those of
recurrent backpropagation, and are clipped by their joint norm, those of feedback weights apart (Meulemans, Zucchet et al. 2022).
"""

from functools import partial

import numpy as np

from dfc_numba.learning.descent import clip_factors
from dfc_numba.learning.method import Gradients, Method
from dfc_numba.model.initialization import initial_matrix
from dfc_numba.model.shared_passes import shared_pass
from dfc_numba.registry import Option, register_built_ins
from dfc_numba.relatives import control_learning, least_control
from dfc_numba.relatives.least_control import LeastControl, RecurrentNetwork
from dfc_numba.support import ranges

STREAM = 3  # of the random numbers of training.seed
LOSSES = ("cross_entropy", "mse")
PAIRS = ("S", "T")  # in the places of W^T and D^T
OPTIONS = (
    "alpha", "k_i", "k_p", "dt", "steps", "tolerance", "sigma", "speed", "tau_noise",
)  # fmt: skip


def control_options(config, rule):
    """Return the `LeastControl` of a configuration."""
    values = {name: config.method[name] for name in OPTIONS if name in config.method}
    return LeastControl(rule=rule, loss=config.target.loss, decay=0.0, **values)


def recurrent_network(network, own):
    """Return the `RecurrentNetwork` of a network with one hidden layer and the method's own arrays, a dict."""
    biases = [np.zeros(n) for n in network.sizes[1:]] if network.biases is None else network.biases
    return RecurrentNetwork(
        input_weights=network.weights[0], weights=own["W"], output_weights=network.weights[1], input_biases=biases[0],
        biases=own.get("b_rec", np.zeros(network.sizes[1])), output_biases=biases[1],
        activation=network.hidden_activations[0],
    )  # fmt: skip


def _layer_parameters(network, config):
    """Return W and b_rec, which learn like U and b."""
    units, rng = network.sizes[1], np.random.default_rng([config.training.seed, STREAM])
    own = {"W": initial_matrix(config.network.init, units, units, rng, config.network.init_range)}
    if network.biases is not None:
        own["b_rec"] = np.zeros(units)
    return {name: (1, np.asarray(array, network.dtype)) for name, array in own.items()}


def _feedback_parameters(network, config, *, rule):
    """Return what replaces W^T and D^T ("kp"), or Q ("lf")."""
    seed = [config.training.seed, STREAM, 1]
    own = {name: array for name, (_, array) in _layer_parameters(network, config).items()}
    recurrent = recurrent_network(network, own)
    if rule == "kp":
        names, arrays = PAIRS, control_learning.initial_transposed(recurrent, seed=seed)
    else:
        names, arrays = ("Q",), control_learning.initial_feedback(recurrent, seed=seed)
    return {name: np.asarray(array, network.dtype) for name, array in zip(names, arrays, strict=True)}


def _forward(network, minibatch, config, own, *, rule):
    options, recurrent = control_options(config, rule), recurrent_network(network, own)
    x, y, feedback = minibatch.x, minibatch.y, {}
    if rule == "kp":
        feedback["transposed"] = [np.asarray(own[name], np.float64) for name in PAIRS]
    if rule == "lf":
        feedback["feedback"] = [np.asarray(own["Q"], np.float64)]
    update, learned = control_learning.control_update(recurrent, x, y, options, **feedback), {}
    if rule == "lf":
        noisy = control_learning.noisy_feedback_update(
            recurrent, x, y, options, update.state, noise=minibatch.noise, **feedback
        )
        scale = -options.tau_q / options.dt  # the learning rate of [feedback_optimizer] stands for dt / tau_q
        learned["Q"] = (scale * noisy.feedback[0]).astype(network.dtype)
    flagged = update.diverged | _restless(_free(network, x, options, own), options)
    return _clipped(network, config, update, learned, flagged)


def _backpropagated(network, minibatch, config, own):
    options = control_options(config, "di")
    free = _free(network, minibatch.x, options, own)
    update = control_learning.recurrent_backpropagation(
        recurrent_network(network, own), minibatch.x, minibatch.y, options, free=free
    )
    return _clipped(network, config, update, {}, update.diverged)


def _restless(free, options):
    """(B,) samples whose outputs, those of the free equilibrium, are not those of a state at rest."""
    return ~(free.finite & free.converged) if options.tolerance else ~free.finite


def _clipped(network, config, update, learned, flagged):
    """Return the `Gradients` of an update, clipped; learned: those of further parameters of the method's own."""
    names = ("input_weights", "output_weights", "weights", "input_biases", "output_biases", "biases")
    main = _descent(
        network, config, [update.weights[name] for name in names[: 3 if network.biases is None else 6]]
    )
    pairs = _descent(network, config, update.transposed or [])
    own = {"W": main[2], **dict(zip(PAIRS, pairs, strict=False)), **learned}
    if network.biases is None:
        return Gradients(main[:2], own=own, flagged=flagged)
    return Gradients(main[:2], main[3:5], own=own | {"b_rec": main[5]}, flagged=flagged)


def _descent(network, config, arrays):
    """Return minus the arrays, clipped by their joint norm."""
    factors = clip_factors([arrays], config.method.clip, "all")[0]
    return [(-factor * array).astype(network.dtype) for factor, array in zip(factors, arrays, strict=True)]


def _decay(network, config, own):
    """Shrink both sides of every pair, and the biases beside them, alike, but not U and its bias."""
    keep = network.dtype.type(1.0 - config.method.pair_decay)
    for array in [network.weights[1], *(network.biases or [])[1:], *own.values()]:
        array *= keep


def _free(network, x, options, own):
    """Return the free equilibrium, which prediction and learning share."""
    return shared_pass(
        lambda: least_control.free_equilibrium(recurrent_network(network, own), x, options),
        "free",
        network,
        x,
    )


def _predict(network, x, config, own):
    return _free(network, x, control_options(config, "di"), own).output


def control_rules(config):
    """Yield what least control refuses of a configuration: another readout, no control, steps that are too long."""
    method, output = config.method, config.network.output_activation
    yield (
        output != "linear",
        f"least control reads out linearly, and network.output_activation = {output!r}; set it to 'linear'",
    )
    yield (
        method.get("k_i", 1.0) == 0 and method.get("k_p", 0.0) == 0,
        "method.k_i = method.k_p = 0 exerts no control; set method.k_i above 0",
    )
    yield (
        method.get("dt", 1.0) > 1,
        f"method.dt = {method.get('dt', 1.0):g} is larger than the time constant of the voltages, 1; lower it",
    )


def _rules(config):
    hidden = config.network.hidden
    yield (
        len(hidden) != 1,
        f"a recurrent network has one layer at equilibrium, and network.hidden = {list(hidden)}; give one number",
    )
    yield from control_rules(config)


FLAGGED = (
    "did not come to rest; try more method.steps, a smaller method.dt, a larger method.alpha, smaller weights (a "
    "lower optimizer.learning_rate, another network.init)"
)
UNCONTROLLED = FLAGGED.replace("a larger method.alpha, ", "")
PHASE = (
    Option("dt", 1.0, "Euler step, in time constants of the voltages", ranges.TimeStep),
    Option("steps", 800, "most steps of a phase", ranges.Steps),
    Option("tolerance", 1e-6, "relative change in a step, per dt, at which a phase ends; 0: never", ranges.Tolerance),
    Option("clip", None, "largest joint norm of the gradients; none: no clipping", ranges.Positive),
)  # fmt: skip
CONTROL = (
    Option("alpha", 0.1, "leak of the controller; that of a sample is alpha times the batch size", ranges.PositiveLeak),
    Option("k_i", 1.0, "integral gain", ranges.Gain), Option("k_p", 0.0, "proportional gain, per batch size", ranges.Gain),
)  # fmt: skip


def _recurrent(name, summary, rule, options=(), **functions):
    return Method(
        name, summary=summary, forward=partial(_forward, rule=rule), layer_parameters=_layer_parameters,
        parameters=None if rule == "di" else partial(_feedback_parameters, rule=rule), predict=_predict, rules=_rules,
        options=(*CONTROL, *PHASE, *options), flagged=FLAGGED, losses=LOSSES,
        **functions,
    )  # fmt: skip


register_built_ins(
    _recurrent("lcp-rnn-di", "least control of a recurrent layer by dynamic inversion", "di"),
    _recurrent(
        "lcp-rnn-kp", "least control of a recurrent layer, feedback that learns like its forward partner (Kolen-Pollack)", "kp",
        (Option("pair_decay", 1e-6, "fraction that both sides of a pair lose in a step", ranges.UpToOne),), after_step=_decay,
    ),
    _recurrent(
        "lcp-rnn-lf", "least control of a recurrent layer by linear feedback that learns from noise", "lf",
        (
            Option("sigma", 0.01, "standard deviation of the noise", ranges.PositiveSigma),
            Option("speed", 5.0, "factor by which output and controller are slower in the noisy phase", ranges.Slowdown),
            Option("tau_noise", 1.0, "time constant of the noise", ranges.TimeConstant),
        ),
    ),
    Method(
        "recurrent-bp", summary="recurrent backpropagation: the adjoint equation at the free equilibrium of a recurrent layer",
        forward=_backpropagated, layer_parameters=_layer_parameters, predict=_predict, rules=_rules, options=PHASE,
        flagged=UNCONTROLLED, losses=LOSSES,
    ),
)  # fmt: skip
