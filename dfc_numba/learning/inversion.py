"""Learning by dynamic inversion and the rules that it is compared with (Podlaski & Machens 2020).

The errors reach the hidden layers through the feedback matrices `network.backward`.
"""

import numpy as np

from dfc_numba.errors import DivergenceError
from dfc_numba.inversion.feedback import initial_feedback, restabilised_feedback
from dfc_numba.inversion.rules import backward_errors
from dfc_numba.learning.errors import gradients, slope, unit_of_error, update_options
from dfc_numba.model.targets import output_gradient

FEEDBACK_STREAM = 1  # of the random numbers of training.seed; that of the weights has no number
RULE_OPTIONS = {
    "di": ("alpha", "dt", "steps", "nonlinearity"),
    "sldi": ("alpha", "dt", "steps", "nonlinearity"),
    "ndi": ("alpha",),
}
WITHOUT_FEEDBACK = ("pbp",)


def from_errors(network, minibatch, config, *, rule):
    """The gradient of the mean loss, with the errors of the hidden layers by a rule of `backward_errors`."""
    activity = network.forward(minibatch.x) if minibatch.activity is None else minibatch.activity
    loss = config.target.loss
    unit = unit_of_error(loss, *activity.r[-1].shape)
    error = -output_gradient(activity.r[-1], minibatch.y, loss) / unit
    output = (error * slope(network, -1, activity)).astype(network.dtype, copy=False)
    slopes = [slope(network, layer, activity) for layer in range(len(network.weights) - 1)]
    options = {name: getattr(config.inversion, name) for name in RULE_OPTIONS.get(rule, ())}
    hidden = backward_errors(network.weights, network.backward, slopes, output, rule=rule, **options)
    deltas = [np.asarray(-unit * delta, network.dtype) for delta in (*hidden, output)]
    return gradients(network, minibatch.x, activity, deltas, loss=loss, **update_options(config))


def create_backward(network, config):
    """Gives a network the feedback matrices that the section [inversion] says, if its method has any.

    Raises:
        RuntimeError: if they could not be made stable.
    """
    method, options = config.training.method, config.inversion
    if method in WITHOUT_FEEDBACK:
        return
    network.backward = initial_feedback(
        network.weights,
        options.feedback,
        loop=_loop(method),
        seed=[config.training.seed, FEEDBACK_STREAM],
        bound=options.feedback_range,
        scale=options.feedback_scale,
        rate=options.stabilising_rate,
        iterations=options.stabilising_iterations,
    )


def restabilise(network, config):
    """Optimises the feedback matrices of the loops that have become unstable, as [inversion] says.

    Raises:
        DivergenceError: if one of them does not become stable within the iterations.
    """
    options = config.inversion
    if options.restabilise == "never":
        return
    try:
        matrices = restabilised_feedback(
            network.weights,
            network.backward,
            alpha=options.alpha,
            dt=options.dt if options.restabilise == "euler" else None,
            loop=_loop(config.training.method),
            rate=options.stabilising_rate,
            iterations=options.stabilising_iterations,
        )
    except RuntimeError as error:
        raise DivergenceError(
            f"{error}; or raise inversion.alpha, or lower optimizer.learning_rate"
        ) from None
    network.backward.fill(matrices)


def _loop(method):
    return "single" if method == "sldi" else "sequential"
