"""Equilibrium propagation as learning methods; its rules are in `dfc_numba.relatives.equilibrium_propagation`."""

from typing import Any

import numpy as np

from dfc_numba.kernels.equilibrium_units import NONLINEARITIES
from dfc_numba.learning.method import EQUILIBRIUM, Gradients, Method, PlannedUpdate
from dfc_numba.learning.named_arrays import listed, negative, numbered, seed_of
from dfc_numba.learning.recurrent_methods import LOSSES
from dfc_numba.model.initialization import initial_matrix
from dfc_numba.model.shared_passes import shared_pass
from dfc_numba.registry import Option
from dfc_numba.relatives import equilibrium_propagation
from dfc_numba.relatives.continual import continual_updates
from dfc_numba.relatives.equilibrium_newton import newton_update
from dfc_numba.relatives.equilibrium_propagation import EquilibriumPropagation, settled_state
from dfc_numba.relatives.equilibrium_trajectory import recorded_equilibrium_update
from dfc_numba.relatives.finiteness import finite_samples
from dfc_numba.support import ranges

FORMS = {
    "ep": "prototypical", "ep-vector-field": "prototypical", "ep-continual": "prototypical",
    "ep-hopfield": "hopfield", "ep-gaussian": "gaussian",
}  # fmt: skip
VECTOR_FIELD = "ep-vector-field"


def equilibrium_of(config):
    """Return the `EquilibriumPropagation` of a configuration."""
    names = ("beta", "sides", "free_steps", "nudged_steps", "dt", "tau", "tolerance", "same_update")
    values = {name: config.method[name] for name in names if name in config.method}
    method = config.training.method
    return EquilibriumPropagation(
        form=FORMS[method], nonlinearity=config.network.hidden_activation, loss=config.target.loss,
        backward="separate" if method == VECTOR_FIELD else "transposed", **values,
    )  # fmt: skip


def _ep_forward(network, minibatch, config, learned=None):
    """Return or plan minus the update; learned: function of it that returns gradients of the method's own."""
    take = _solved if config.method.get("solver") == "newton" else _planned
    return take(network, minibatch, equilibrium_of(config), learned)


def _solved(network, minibatch, options, learned):
    """Return minus the update by Newton's method."""
    update = newton_update(network, minibatch.x, minibatch.y, options)
    own = learned and learned(update)
    return Gradients(negative(update.weights), negative(update.biases), own=own, flagged=update.diverged)


def _planned(network, minibatch, options, learned):
    """Plan minus the update by simulation, which the log may record."""

    def gradients(update):
        own = learned and learned(update)  # the loop counts `update.diverged`
        return Gradients(negative(update.weights), negative(update.biases), own=own)

    return PlannedUpdate(recorded_equilibrium_update, gradients, (minibatch.y, options), network=network)


def _ep_predict(network, x, config):
    return settled_state(network, x, equilibrium_of(config)).states[-1]


def _vf_network(network, x, own):
    """Return the network with its backward weights, the same one for prediction and update of a minibatch."""
    return shared_pass(lambda: network.sharing(backward=listed("B", own)), "backward", network, x)


def _vf_parameters(network, config):
    rng = np.random.default_rng(seed_of(config))
    shapes = zip(network.sizes[1:-1], network.sizes[2:], strict=True)
    arrays = [initial_matrix("xavier_normal", *shape, rng) for shape in shapes]
    return numbered("B", [array.astype(network.dtype) for array in arrays])


def _vf_forward(network, minibatch, config, own):
    def learned(update):
        return numbered("B", negative(update.backward))

    return _ep_forward(_vf_network(network, minibatch.x, own), minibatch, config, learned)


def _vf_predict(network, x, config, own):
    return _ep_predict(_vf_network(network, x, own), x, config)


def _continual_forward(network, minibatch, config):
    """Return minus the sum of what the nudged steps add, so that one step of plain gradient descent ends where they do."""
    options, rate = equilibrium_of(config), config.optimizer.learning_rate
    free = settled_state(network, minibatch.x, options)
    steps = continual_updates(network, minibatch.x, minibatch.y, options, learning_rate=rate, free=free)
    weights, biases = ([step.weights for step in steps], [step.biases for step in steps])
    finite = finite_samples(len(minibatch.x), *(step.states for step in steps))
    return Gradients(
        [-sum(arrays) for arrays in zip(*weights, strict=True)],
        None if network.biases is None else [-sum(arrays) for arrays in zip(*biases, strict=True)],
        flagged=free.moving | ~finite,
    )


PLAIN = {
    "momentum": 0.0,
    "weight_decay": 0.0,
    "clip_norm": None,
    "modulation": None,
    "cosine_to": None,
    "divide_by_step": False,
}


def _continual_rules(config):
    yield from _ep_rules(config)
    optimizer = config.optimizer
    if optimizer.name != "sgd":
        other = "name"
    elif isinstance(optimizer.learning_rate, tuple):
        other = "learning_rate"
    else:
        other = next((key for key, value in PLAIN.items() if getattr(optimizer, key) != value), None)
    yield (
        other is not None,
        "continual equilibrium propagation moves the weights at every nudged step, by plain gradient descent with one learning "
        f"rate; optimizer.{other} = {getattr(optimizer, other or 'name')!r} would step them another way: set optimizer.name = "
        "'sgd' and one optimizer.learning_rate, and leave out momentum, weight_decay, clip_norm, modulation, cosine_to and "
        "divide_by_step",
    )


def _ep_rules(config):
    name = config.network.hidden_activation
    known = tuple(NONLINEARITIES)
    yield (
        not isinstance(name, str) or name not in known,
        f"equilibrium propagation has one nonlinearity for all layers, and network.hidden_activation = {name!r}; set it to one "
        f"of {', '.join(known)}",
    )
    yield (
        config.log.on and config.method.get("solver") == "newton",
        "method.solver = 'newton' simulates nothing that could be logged; set method.solver = 'steps', or log.on = false",
    )
    output = config.network.output_activation
    yield (
        output != "linear",
        f"the output of equilibrium propagation has the nonlinearity of network.hidden_activation (the prototypical form is "
        f"linear with target.loss = 'cross_entropy'; energies nudge voltages), and network.output_activation = {output!r} would "
        "be ignored; leave it at 'linear'",
    )
    yield (
        config.method.beta == 0,
        "method.beta = 0 leaves nothing to divide by; set it to a number such as 0.1",
    )
    if config.method.beta != 0 and name in known and config.target.loss in LOSSES:
        yield from _contradicting_options(config)


def _contradicting_options(config):
    """Yield what the options themselves refuse, and a nudge that their steps cannot carry."""
    try:
        options = equilibrium_of(config)
        if config.method.get("solver") != "newton":
            equilibrium_propagation.check_nudge(options, options.beta)
    except ValueError as error:
        yield True, f"section [method] of {config.training.method!r}: {error}"


NOT_SETTLED = (
    "did not settle; try more method.free_steps, a larger method.tolerance, smaller weights (a lower "
    "optimizer.learning_rate, another network.init)"
)
BETA = Option("beta", 0.1, "nudge, not 0; negative: away from the target", ranges.Finite)
SIDES = Option("sides", 1, "1: free and +beta states; 2: -beta and +beta", least=1, most=2)
FREE = Option("free_steps", 30, "maximum number of steps of the free phase", ranges.Steps)
NUDGED = Option("nudged_steps", 10, "steps of the nudged phase", ranges.Steps)
TOLERANCE = Option(
    "tolerance", None, "largest change of a state in a step at which a sample has settled; none: all steps",
    ranges.PositiveTolerance,
)  # fmt: skip
SOLVER = Option(
    "solver", "steps", "newton: solve for both equilibria (small networks)", choices=("steps", "newton")
)
STEP = Option("dt", 0.1, "Euler step", ranges.TimeStep)
TAU = Option("tau", 1.0, "time constant", ranges.TimeConstant)


SIMULATION: dict[str, Any] = {
    "reads": ("log",),
    "simulations": {"forward": EQUILIBRIUM},
    "flagged": NOT_SETTLED,
    "losses": LOSSES,
}


def _energy(name, summary, options):
    return Method(
        name,
        summary=summary,
        forward=_ep_forward,
        predict=_ep_predict,
        options=options,
        rules=_ep_rules,
        **SIMULATION,
    )


EQUILIBRIUM_METHODS = (
    _energy(
        "ep", "equilibrium propagation, prototypical form", (BETA, SIDES, FREE, NUDGED, TOLERANCE, SOLVER)
    ),
    _energy(
        "ep-hopfield", "equilibrium propagation, Hopfield energy",
        (BETA, SIDES, FREE, NUDGED, STEP, TAU, TOLERANCE, SOLVER),
    ),
    _energy(
        "ep-gaussian", "equilibrium propagation, conditional Gaussian energy (predictive coding)",
        (BETA, SIDES, NUDGED, STEP, TAU),
    ),
    Method(
        "ep-vector-field", summary="equilibrium propagation with backward weights of their own", forward=_vf_forward,
        parameters=_vf_parameters, predict=_vf_predict, rules=_ep_rules, **SIMULATION,
        options=(
            BETA, SIDES, FREE, NUDGED, TOLERANCE, SOLVER,
            Option("same_update", False, "backward weights receive the symmetric rule's update"),
        ),
    ),
    Method(
        "ep-continual", summary="equilibrium propagation whose weights move at every nudged step (continual)",
        forward=_continual_forward, predict=_ep_predict, rules=_continual_rules, flagged=NOT_SETTLED, losses=LOSSES,
        options=(BETA, FREE, NUDGED, TOLERANCE),
    ),
)  # fmt: skip
