"""A probe: a network and a batch, with the update that a method makes of it; each quantity of the theory is computed once.

What a probe does not have (a network alone has no controller, a stored record may have no labels) is missing with a reason,
which is the message where a measurement needs it.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from dfc_numba.analysis.conditions import conditions
from dfc_numba.analysis.directions import reference_update
from dfc_numba.analysis.stability import stability
from dfc_numba.configuration.config_usage import DFC_METHODS, solves
from dfc_numba.dynamics.plasticity import ForwardUpdate, forward_update
from dfc_numba.learning import methods
from dfc_numba.learning.evaluation import soft_targets
from dfc_numba.learning.schedule import shuffled_minibatches
from dfc_numba.model.noise import NoiseKey

NOISE_MINIBATCH = (
    2**64 - 1
)  # the number in the noise key of a probe, which no minibatch of a training reaches


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What is measured.

    Attributes:
        network: a `Network`. x: inputs (B, n_0).
        y: targets (B, n_L), for a classification soft labels; None if unknown. loss: "mse" or "cross_entropy".
        update: the `ForwardUpdate` that the method makes of the batch, to be added to the weights; None if there is none.
        target: output target r*, (B, n_L); controller: the `Controller` that pursues it; None for a method without.
        simulates: whether the controller is simulated, so that its dynamics matter.
        damping: gamma of the damped references.
        missing: why something is None, by its name.
    """

    network: object
    x: np.ndarray
    y: np.ndarray | None = None
    loss: str = "mse"
    update: ForwardUpdate | None = None
    target: np.ndarray | None = None
    controller: object = None
    simulates: bool = False
    damping: float = 0.0
    missing: dict = field(default_factory=dict)
    _references: dict = field(default_factory=dict, init=False, repr=False)

    @property
    def traits(self):
        """What decides which measurements there are: some of "damping", "controller", "linear control", "dynamics"."""
        return _traits(self.controller, self.simulates, self.damping)

    def need(self, name):
        """An attribute that may be None; ValueError with the reason where it is."""
        value = getattr(self, name)
        if value is None:
            raise ValueError(self.missing.get(name, f"this needs {name}, which is not known"))
        return value

    def reference(self, kind, *, damped=False):
        """The `ForwardUpdate` of a kind of `reference_update`, or of "ssa", the linearised steady state (DFC-SSA)."""
        if (kind, damped) not in self._references:
            made = self._linearised() if kind == "ssa" else self._reference(kind, damped)
            self._references[kind, damped] = made
        return self._references[kind, damped]

    def _reference(self, kind, damped):
        damping = {"damping": self.damping} if damped else {}
        return reference_update(self.network, self.x, self.need("y"), kind, loss=self.loss, **damping)

    def _linearised(self):
        """The update of DFC-SSA, without noise; NaN where J Q + alpha I is singular."""
        controller = replace(self.need("controller"), sigma=0.0, sigma_output=None, tau_noise=None)
        try:
            return forward_update(self.network, self.x, self.need("target"), controller, readout="analytic")
        except ValueError:
            return _undefined(self.network)

    @cached_property
    def conditions(self):
        """The `Conditions`."""
        return conditions(self.network, self.x)

    @cached_property
    def stability(self):
        """The `Stability` in the steady state."""
        controller = self.need("controller")
        at = "simulation" if controller.jacobian_feedback else "steady_state"
        return stability(self.network, self.x, self.need("target"), controller, at=at)


def _traits(controller, simulates, damping):
    linear = controller is not None and controller.error == "difference"
    found = {
        "damping": damping > 0, "controller": controller is not None, "linear control": linear, "dynamics": simulates,
    }  # fmt: skip
    return {name for name, there in found.items() if there}


def traits_of(config, damping):
    """The traits of the probes that `probe_of` makes."""
    controlled = _controlled(config)
    return _traits(config.controller if controlled else None, controlled and not solves(config), damping)


def _controlled(config):
    """Whether the forward phase pursues a target with a controller."""
    return config.training.method in DFC_METHODS and not config.training.freeze_forward


def probe_minibatch(network, dataset, config, *, samples=None):
    """The fixed probe batch of a configuration: a `Minibatch` of training samples that `training.seed` draws.

    Its noise is that of no minibatch of a training. Samples are nudged as in a training.

    Args:
        samples: how many; None for `analysis.samples`.

    Raises:
        ValueError: if the training set has fewer.
    """
    training, target, split = config.training, config.target, dataset.train
    samples = config.analysis.samples if samples is None else samples
    if samples > len(split):
        raise ValueError(
            f"a probe batch of {samples} samples needs as many; {dataset.name} has {len(split)} to train"
        )
    indices = shuffled_minibatches(len(split), samples, training.seed, "probe", 0)[0]
    return methods.Minibatch(
        phase="forward", epoch=0, position=0, number=0, indices=indices,
        x=np.asarray(split.x[indices], network.dtype),
        y=soft_targets(split.y[indices], network.sizes[-1], target.class_value),
        noise=NoiseKey(training.seed, NOISE_MINIBATCH, indices),
        nudge=target.step / (training.batch_size if target.step_per == "minibatch" else 1),
    )  # fmt: skip


def probe_of(network, minibatch, config, *, damping=None):
    """The `Probe` of a minibatch: the method of the configuration makes its update of it, as in training.

    Args:
        damping: None for `analysis.damping`.
    """
    controlled = _controlled(config)
    return Probe(
        network=network, x=minibatch.x, y=minibatch.y, loss=config.target.loss,
        update=None if config.training.freeze_forward else _own_update(network, minibatch, config),
        target=methods.pursued_target(network, minibatch, config) if controlled else None,
        controller=config.controller if controlled else None,
        simulates=controlled and not solves(config),
        damping=config.analysis.damping if damping is None else damping,
        missing=_reasons(config),
    )  # fmt: skip


def _undefined(network):
    """An update that is NaN."""
    kinds = (network.weights, network.biases)
    return ForwardUpdate(*(arrays and [np.full_like(array, np.nan) for array in arrays] for arrays in kinds))


def _own_update(network, minibatch, config):
    """What the method would add to the parameters at learning rate 1: minus its gradients."""
    gradients = methods.find(config.training.method).gradients(network, minibatch, config)
    biases = gradients.biases and [-array for array in gradients.biases]
    return ForwardUpdate([-array for array in gradients.weights], biases)


def _reasons(config):
    frozen = config.training.freeze_forward
    run = "training.freeze_forward = true" if frozen else f"training.method = {config.training.method!r}"
    control = f"{run} runs no controller of forward learning"
    return {
        "update": f"{run} makes no update of the forward weights",
        "controller": control,
        "target": control,
    }
