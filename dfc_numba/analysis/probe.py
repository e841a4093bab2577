"""A probe: a network and a batch, with the update that a method makes of it; each quantity of the theory is computed once.

What a probe does not have (a network alone has no controller, a stored record may have no labels) is missing with a reason,
which is the message where a measurement needs it.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from dfc_numba.analysis.conditions import conditions
from dfc_numba.analysis.control import effort_update
from dfc_numba.analysis.directions import reference_update
from dfc_numba.analysis.stability import stability
from dfc_numba.dynamics.plasticity import ForwardUpdate, forward_update
from dfc_numba.errors import ConfigurationError
from dfc_numba.learning import methods
from dfc_numba.learning.phases import has_feedback_weights, is_controlled, solves
from dfc_numba.learning.schedule import PROBE, shuffled_minibatches
from dfc_numba.model.noise_key import NoiseKey
from dfc_numba.registry import METHODS
from dfc_numba.steady.equilibrium import steady_state
from dfc_numba.support.threads import one_thread

AT_REST_FEEDFORWARD = ("ep-gaussian",)  # methods whose `predict` gives the outputs of the feedforward pass
NOISE_MINIBATCH = (
    2**64 - 1
)  # the number in the noise key of a probe, which no minibatch of a training reaches


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The subject of measurements: a network, a batch and an update.

    Attributes:
        network: a `Network`. x: inputs (B, n_0).
        y: targets (B, n_L), for a classification soft labels; None if unknown. loss: "mse" or "cross_entropy".
        update: the `ForwardUpdate` that the method makes of the batch, to be added to the weights; None if there is none.
        target: output target r*, (B, n_L); controller: the `Controller` that pursues it; None for a method without.
        indices: (B,) which samples of the training set these are; None if unknown.
        simulates: whether the controller is simulated, so that its dynamics matter.
        damping: gamma of the damped references.
        missing: why something of these names is missing; "feedback": why there are no feedback weights to look at.
    """

    network: object
    x: np.ndarray
    y: np.ndarray | None = None
    loss: str = "mse"
    update: ForwardUpdate | None = None
    target: np.ndarray | None = None
    controller: object = None
    indices: np.ndarray | None = None
    simulates: bool = False
    damping: float = 0.0
    missing: dict = field(default_factory=dict)
    _references: dict = field(default_factory=dict, init=False, repr=False)

    @property
    def traits(self):
        """The names of `_traits` that hold, which decide the available measurements."""
        return _traits(self.controller, self.simulates, self.damping)

    def need(self, *names):
        """Raise a ValueError with the reason where one of the things of these names is missing."""
        for name in names:
            if name in self.missing:
                raise ValueError(self.missing[name])

    def reference(self, kind, *, damped=False):
        """Return the `ForwardUpdate` of a kind of `reference_update`, or of one of two others.

        They are "ssa", the linearised steady state (DFC-SSA), and "effort", which descends along the control effort in the
        steady state (Strong-DFC) of the samples that have one. Both are NaN where J Q + alpha I is singular.
        """
        if (kind, damped) not in self._references:
            own = {"ssa": self._linearised, "effort": self._less_effort}
            made = own[kind]() if kind in own else self._reference(kind, damped)
            self._references[kind, damped] = made
        return self._references[kind, damped]

    def _reference(self, kind, damped):
        damping = {"damping": self.damping} if damped else {}
        return reference_update(self.network, self.x, self.y, kind, loss=self.loss, **damping)

    def _linearised(self):
        return self._or_nan(forward_update, self.network, self.x, self.target, self.quiet, readout="analytic")

    def _less_effort(self):
        found = self.rest.converged
        return self._or_nan(effort_update, self.network, self.x[found], self.rest.u[found], self.quiet)

    def _or_nan(self, function, *arguments, **options):
        """Return the update of a function; NaN where J Q + alpha I is singular, or there are no samples."""
        try:
            return function(*arguments, **options)
        except ValueError:
            return _undefined(self.network)

    @cached_property
    def quiet(self):
        """The controller without noise."""
        return replace(self.controller, sigma=0.0, sigma_output=None, tau_noise=None)

    @cached_property
    def rest(self):
        """The `SteadyState` by Newton's method."""
        return steady_state(self.network, self.x, self.target, self.quiet, method="newton")

    @cached_property
    def conditions(self):
        """The `Conditions`."""
        return conditions(self.network, self.x)

    @cached_property
    def stability(self):
        """The `Stability` in the steady state."""
        at = "simulation" if self.controller.jacobian_feedback else "steady_state"
        return stability(self.network, self.x, self.target, self.controller, at=at)


def _traits(controller, simulates, damping):
    """Return which traits apply, of "damping", "controller", "linear control", "feedback control" and "dynamics"."""
    linear = controller is not None and controller.error == "difference"
    found = {
        "damping": damping > 0, "controller": controller is not None, "linear control": linear, "dynamics": simulates,
        "feedback control": controller is not None and not controller.jacobian_feedback,
    }  # fmt: skip
    return {name for name, there in found.items() if there}


def traits_of(config, damping):
    """Return the traits of the probes that `probe_of` makes."""
    controlled = is_controlled(config)
    return _traits(config.controller if controlled else None, controlled and not solves(config), damping)


def probe_indices(dataset, config, samples=None):
    """Draw the training samples of the probe batch by `training.seed`, `samples` or `analysis.samples` of them.

    Raises:
        ConfigurationError: if the training set has fewer.
    """
    samples, there = config.analysis.samples if samples is None else samples, len(dataset.train)
    if samples > there:
        raise ConfigurationError(
            f"a probe batch of {samples} samples does not fit: {dataset.name} has {there} to train; set analysis.samples"
        )
    return shuffled_minibatches(there, samples, config.training.seed, PROBE, 0)[0]


def probe_minibatch(network, dataset, config, *, samples=None):
    """Return the fixed probe batch of a configuration, a `Minibatch` of the samples that `probe_indices` draws.

    Its noise is that of no minibatch of a training. Samples are nudged as in a training.

    Raises:
        ConfigurationError: if the training set has fewer samples.
    """
    training, indices = config.training, probe_indices(dataset, config, samples)
    where = {"phase": "forward", "epoch": 0, "position": 0, "number": 0}
    noise = NoiseKey(training.seed, NOISE_MINIBATCH, indices)
    minibatch = methods.minibatch_of(dataset.train, indices, network, config, noise=noise, **where)
    return replace(minibatch, nudge=methods.nudge(config.target, training.batch_size))


def probe_of(network, minibatch, config, *, damping=None, own=None):
    """Return the `Probe` of a minibatch, with the update that the configuration's method makes in training.

    Args:
        damping: None for `analysis.damping`.
        own: arrays of the method's own by name; None for those at the start of a run.
    """
    controlled = is_controlled(config)
    missing = reasons(config)
    return Probe(
        network=network, x=minibatch.x, y=minibatch.y, loss=config.target.loss,
        update=None if "update" in missing else _own_update(network, minibatch, config, own),
        target=methods.pursued_target(network, minibatch, config) if controlled else None,
        controller=config.controller if controlled else None,
        indices=minibatch.indices,
        simulates=controlled and not solves(config),
        damping=config.analysis.damping if damping is None else damping,
        missing=missing,
    )  # fmt: skip


def _undefined(network):
    """Return an update that is NaN."""
    kinds = (network.weights, network.biases)
    return ForwardUpdate(*(arrays and [np.full_like(array, np.nan) for array in arrays] for arrays in kinds))


def _own_update(network, minibatch, config, own):
    """Return what the method would add to the parameters at learning rate 1: minus its gradients."""
    with one_thread():
        gradients = methods.find(config.training.method).gradients(network, minibatch, config, own)
    biases = gradients.biases and [-array for array in gradients.biases]
    return ForwardUpdate([-array for array in gradients.weights], biases)


def reasons(config):
    """Return why there is no update, controller or feedback, where the configuration has none."""
    training = config.training
    method = f"training.method = {training.method!r}"
    run = "training.freeze_forward = true" if training.freeze_forward else method
    found = {}
    if training.freeze_forward:
        found["update"] = f"{run} makes no update of the forward weights"
    elif METHODS[training.method].layer_parameters is not None:
        found["update"] = (
            f"{method} learns weights within a layer, and directions are those of feedforward networks"
        )
    elif METHODS[training.method].predict is not None and training.method not in AT_REST_FEEDFORWARD:
        found["update"] = (
            f"{method} has no feedforward pass, and directions are those of its loss; compare an update of equilibrium "
            "propagation with `equilibrium_gradient` (docs/relatives.md)"
        )
    if not is_controlled(config):
        found["controller"] = f"{run} runs no controller in the forward phase"
    if not has_feedback_weights(config):
        found["feedback"] = f"{method} with these settings has no feedback weights"
    return found
