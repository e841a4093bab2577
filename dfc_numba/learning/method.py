"""A learning method as one object, the minibatch that it is given, and the gradients that it returns.

def forward(network, minibatch, config):
    ...
    return dfc.Gradients(weights=[...], biases=[...])            # an optimiser descends along them

dfc.register(dfc.Method("mine", summary="...", forward=forward, options=[dfc.Option("rate", 0.1, "...")]))
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import numpy as np

from dfc_numba.dynamics.phase import judging_divergence
from dfc_numba.errors import ConfigurationError
from dfc_numba.learning.phases import PHASES
from dfc_numba.model.network import Activity, Network
from dfc_numba.model.shared_passes import sharing_passes
from dfc_numba.registry import METHODS, Extension, Option
from dfc_numba.support.array_types import Array, ArrayLike, LayersLike

TWO_PHASES = PHASES
SINGLE_PHASE = ("pretraining", "forward", "extra feedback")
FORWARD_ONLY = ("forward",)
EQUILIBRIUM = "equilibrium"  # what is simulated where the section [method] has its options
CHAIN, DIRECT = "chain", "direct"  # `Method.error_path`
SIMULATIONS = ("controller", "feedback_controller", "inversion", EQUILIBRIUM)
FUNCTIONS = (
    "forward", "feedback", "prepare", "parameters", "layer_parameters", "state", "after_step", "predict", "rules",
)  # fmt: skip
# parts of a configuration that a run looks at if its method reads them: sections, or single keys
READABLE = {
    "controller": "runs no controller and learns no feedback weights",
    "feedback": "runs no controller and learns no feedback weights",
    "feedback_controller": "runs no controller and learns no feedback weights",
    "feedback_optimizer": "runs no controller and learns no feedback weights",
    "training.rule": "runs no controller and learns no feedback weights",
    "training.samples": "runs no controller and learns no feedback weights",
    "training.clip_error": "does not backpropagate per-sample errors",
    "training.normalise_updates": "does not backpropagate per-sample errors",
    "target.feedback": "has no output target",
    "target.step_per": "has no output target",
    "target.step": "has no output target",
    "network.feedback_init": "has no feedback weights",
    "network.feedback_noise": "has no feedback weights",
    "network.feedback_damping": "has no feedback weights",
    "inversion": "does not depend on it",
    "log": "runs no controller that could be logged",
}


@dataclass
class Gradients:
    """The arrays that optimisers descend along, one per layer; None for parameters that a step leaves alone.

    Attributes:
        weights: list of (n_i, n_{i-1}). biases: list of (n_i,). feedback: list of (n_i, n_L).
        own: a dict with gradients of parameters of the method's own, by their names.
        flagged: (B,) the samples that `Method.flagged` is about, which are counted; None where that is not known.
    """

    weights: LayersLike | None = None
    biases: LayersLike | None = None
    feedback: LayersLike | None = None
    own: Mapping[str, ArrayLike] | None = None
    flagged: Array | None = None

    def check(self, method: Method, network: Network, parameters: Mapping[str, Array]) -> None:
        """Raise a ValueError where they do not fit the arrays of a network and the parameters of the method's own, a dict."""
        for kind in ("weights", "biases", "feedback"):
            given, arrays = getattr(self, kind), getattr(network, kind)
            if given is not None or (kind == "biases" and self.weights is not None and arrays is not None):
                _check_shapes(method, kind, given, dict(enumerate(arrays or (), 1)))
        if self.own is not None:
            _check_shapes(method, "own", self.own, parameters)


def _check_shapes(method, kind, given, arrays):
    if isinstance(given, list | tuple):
        given = dict(enumerate(given, 1))
    shapes = {name: np.shape(array) for name, array in (given or {}).items()}
    needed = {name: array.shape for name, array in arrays.items()}
    if shapes != needed:
        raise ValueError(
            f"method {method.name!r} returns gradients `{kind}` of shapes {shapes}; they need to be {needed}"
        )


@dataclass(frozen=True, kw_only=True)
class Minibatch:
    """One minibatch, and where in training it is met.

    Attributes:
        phase: one of `PHASES`.
        epoch: number of the epoch, from 1; the epochs of the pre-training are counted on their own.
        position: number of the minibatch in its pass over the data, from 1.
        number: running number of the minibatch since the start of training, from 0: the noise key's.
        indices: (B,) which samples of the training set these are.
        x, y: inputs (B, n_0) in the network's dtype; targets (B, n_L), for a classification soft labels.
        noise: where there is noise: a `NoiseKey`, or a list of arrays (T, B, n_i), for the one-shot rule (B, n_i).
        nudge: step of a weak output target, for one sample.
        activity: the feedforward activity of x, where it is known already.
    """

    phase: str
    epoch: int
    position: int
    number: int
    indices: Array
    x: Array
    y: Array
    noise: Any = None
    nudge: float = 0.0
    activity: Activity | None = None


@dataclass(frozen=True)
class PlannedUpdate:
    """An update that a gradient function wants computed, so that whoever computes it can record and count it.

    Attributes:
        function: one of `forward_update`, `feedback_update`, `forward_and_feedback_update`, `one_shot_feedback_update`,
            `expected_feedback_update`, `inversion_update`, `recorded_equilibrium_update`: it is called with network,
            inputs, `arguments` and `options`.
        gradients: function from what it returns to the `Gradients`.
        arguments: target and controller, `Inversion` or `EquilibriumPropagation`; none for the one-shot rule. options: keyword
            arguments.
        network: called with it instead of the network that learns; None for that one.
    """

    function: Callable[..., Any]
    gradients: Callable[[Any], Gradients]
    arguments: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    network: Network | None = None

    def compute(self, network: Network, minibatch: Minibatch) -> Any:
        """Return what the function makes of a minibatch."""
        network = network if self.network is None else self.network
        with judging_divergence():
            return self.function(network, minibatch.x, *self.arguments, **self.options)


@dataclass(frozen=True)
class OwnArrays:
    """The arrays of a method's own, dicts by name.

    Attributes:
        parameters: those that learn. state: those that evolve otherwise.
        layers: of the parameters that learn like the weights of a layer its number, from 1.
    """

    parameters: dict
    state: dict
    layers: dict

    @property
    def together(self):
        """All of them in one dict."""
        return {**self.parameters, **self.state}


@dataclass(frozen=True, eq=False)
class Method(Extension):
    """A learning method.

    A gradient function takes (network, minibatch, config) and returns the `Gradients` that an optimiser descends along (they
    point uphill), or a `PlannedUpdate`. A method with `parameters` or `state` has its own arrays: its functions take them
    as a further, last argument, a dict by name, and may write into those of `state`.

    Args:
        name: by which `training.method` chooses it. summary: one line of documentation.
        forward: gradient function of the phase "forward". What it returns decides which optimisers step.
        feedback: gradient function of the other phases; None for a method without.
        phases: which phases the loop runs, in this order: "pretraining" before the first epoch, the others in each epoch, as
            often as the section [feedback] says.
        options: `Option`s, the keys of the section [method], which are the attributes of `config.method`.
        reads: what the run looks at because of this method: keys of `READABLE`, which are sections or single keys, or single
            keys of these sections, such as "controller.alpha". What is stated but not read is refused.
        simulations: a dict from phases to the section whose controller (or inversion) they simulate; "equilibrium" for the
            phases of equilibrium propagation.
        single_phase: whether the forward phase updates the feedback weights, too.
        prepare: function of (network, config) that gives a new network what the method needs beside its weights.
        parameters: function of (network, config) that returns a dict of arrays that learn; `Gradients.own` has their
            gradients, and the optimiser of [feedback_optimizer] steps them. They and the state are in checkpoints.
        layer_parameters: as `parameters`, for arrays that learn like the weights of a layer, by the optimiser of [optimizer]: a
            dict of pairs (layer, array), layers from 1.
        state: function of (network, config) that returns a dict of other arrays that evolve.
        after_step: function of (network, config) that follows each step of the forward weights.
        predict: function of (network, x, config) that returns the outputs (B, n_L) of a network that has no feedforward pass,
            such as those of its equilibrium; None for `Network.predict`.
        flagged: what the samples that `Gradients.flagged` marks did, and the remedy: the end of a warning, "12 of 60
            samples ...".
        losses: names of the losses that it is for; empty: all of them.
        error_path: how errors reach the hidden layers: "chain", from layer to layer, on which way `forward` multiplies them by
            `modulation.factors_on_the_way`; "direct", from the output; None: a propagating `optimizer.modulation` is refused.
        rules: function of config that yields pairs (whether something contradicts itself, the sentence that says what to
            change).
    """

    name: str
    _: KW_ONLY
    summary: str = ""
    forward: Callable[..., Gradients | PlannedUpdate]
    feedback: Callable[..., Gradients | PlannedUpdate] | None = None
    phases: Sequence[str] = FORWARD_ONLY
    options: Sequence[Option] = ()
    reads: Sequence[str] = ()
    simulations: Mapping[str, str] = field(default_factory=dict)
    single_phase: bool = False
    prepare: Callable[[Network, Any], None] | None = None
    parameters: Callable[[Network, Any], Mapping[str, Array]] | None = None
    layer_parameters: Callable[[Network, Any], Mapping[str, tuple[int, Array]]] | None = None
    state: Callable[[Network, Any], Mapping[str, Array]] | None = None
    after_step: Callable[..., None] | None = None
    predict: Callable[..., Array] | None = None
    flagged: str = ""
    losses: Sequence[str] = ()
    error_path: str | None = None
    rules: Callable[[Any], Iterable[tuple[Any, str]]] | None = None

    registry = METHODS

    @property
    def controlled(self) -> bool:
        """True if it has a controller that drives the outputs to a target."""
        return self.reads_any("controller")

    @property
    def solves(self) -> bool:
        """True if the forward phase solves for the steady state of the controller instead of simulating."""
        return self.controlled and "forward" not in self.simulations

    @property
    def simulates(self) -> str | None:
        """The section that the forward phase simulates, or None."""
        return self.simulations.get("forward")

    @property
    def inverts(self) -> bool:
        """True if it runs the loops of dynamic inversion."""
        return self.simulates == "inversion"

    @property
    def has_arrays(self) -> bool:
        """True if it has its own arrays."""
        return any((self.parameters, self.layer_parameters, self.state))

    @property
    def places(self) -> tuple[str, ...]:
        """The keys that it reads of a configuration: `reads`, and those of the training loop's phases."""
        counts = {"pretraining": "pretraining_epochs", "feedback": "epochs", "extra feedback": "extra_epochs"}
        needed = [f"feedback.{key}" for phase, key in counts.items() if phase in self.phases]
        learns = ["feedback.train"] if self.feedback is not None else []
        steps = ["feedback_optimizer"] if self.feedback is not None or self.parameters is not None else []
        return (*self.reads, *learns, *needed, *steps)

    def reads_any(self, section: str) -> bool:
        """Return whether it reads a section or some key of it."""
        return any(place == section or place.startswith(f"{section}.") for place in self.places)

    def arrays(self, network: Network, config: Any) -> OwnArrays:
        """Return the `OwnArrays` at the start of a run."""
        kinds = (self.parameters, self.layer_parameters, self.state)
        with sharing_passes():
            found: list[dict[str, Any]] = [{} if one is None else dict(one(network, config)) for one in kinds]
        learned, layered, state = found
        layers = {name: pair[0] for name, pair in layered.items()}
        return OwnArrays(learned | {name: pair[1] for name, pair in layered.items()}, state, layers)

    def gradients(
        self,
        network: Network,
        minibatch: Minibatch,
        config: Any,
        own: Mapping[str, Array] | None = None,
        compute: Callable[..., Any] | None = None,
    ) -> Gradients:
        """Return the gradients for one minibatch, in the phase of the minibatch.

        Args:
            own: the method's own arrays by name, if it has any; None for those at the start of a run.
            compute: function of (`PlannedUpdate`, minibatch) that returns its update; None just computes it.
        """
        function = self.forward if minibatch.phase == "forward" else self.feedback
        gradients = function(network, minibatch, config, *self._own(network, config, own))  # type: ignore[misc]  # see `check`
        if not isinstance(gradients, PlannedUpdate):
            return gradients
        update = gradients.compute(network, minibatch) if compute is None else compute(gradients, minibatch)
        return gradients.gradients(update)

    def outputs(
        self, network: Network, x: Array, config: Any, own: Mapping[str, Array] | None = None
    ) -> Array:
        """Return the outputs (B, n_L) of a network that this method trains, for inputs (B, n_0)."""
        if self.predict is None:
            return network.forward(x).r[-1]
        return self.predict(network, x, config, *self._own(network, config, own))

    def predictor(
        self, network: Network, config: Any, own: Mapping[str, Array] | None = None
    ) -> Callable[[Array], Array]:
        """Return a function of inputs x (B, n_0) that gives the outputs (B, n_L) of a trained network.

        Args:
            own: the method's own arrays by name as training left them; None where they were not kept.

        Raises:
            ConfigurationError: for a method whose outputs need its own arrays, without them.
        """
        if self.predict is not None and self.has_arrays and own is None:
            raise ConfigurationError(
                f"training.method = {self.name!r} predicts with its own arrays, which are not stored with these weights; "
                "evaluate the run with --weights last, or see the metrics of the run"
            )
        return lambda x: self.outputs(network, x, config, own)

    def follow_step(self, network: Network, config: Any, own: Mapping[str, Array] | None = None) -> None:
        """Do what follows a step of the optimisers."""
        if self.after_step is not None:
            self.after_step(network, config, *self._own(network, config, own))

    def _own(self, network, config, own):
        if not self.has_arrays:
            return ()
        if own is None:
            own = self.arrays(network, config).together
        return (own,)

    def check(self) -> None:
        """Raise a ValueError for phases, sections or functions that there are not."""
        functions = {name: getattr(self, name) for name in FUNCTIONS}
        missing = [name for name, value in functions.items() if not callable(value)]
        wrong = [name for name in missing if functions[name] is not None or name == "forward"]
        if wrong:
            raise ValueError(
                f"method {self.name!r} has {wrong[0]} = {functions[wrong[0]]!r}; it needs to be a function"
            )
        if self.error_path not in (CHAIN, DIRECT, None):
            raise ValueError(
                f"method {self.name!r} has error_path = {self.error_path!r}; allowed are {CHAIN!r}, {DIRECT!r} and None"
            )
        _check_phases(self)
        _check_places(self)
        _check_signatures(self, functions)


def _check_phases(method):
    others = [phase for phase in (*method.phases, *method.simulations) if phase not in PHASES]
    if others or "forward" not in method.phases or len({*method.phases}) < len(method.phases):
        raise ValueError(
            f"method {method.name!r} has the phases {method.phases!r} and simulations of {tuple(method.simulations)!r}; "
            f"allowed are {', '.join(map(repr, PHASES))}, each once, with 'forward'"
        )
    if len(method.phases) > 1 and method.feedback is None:
        raise ValueError(
            f"method {method.name!r} has the phases {method.phases!r} but no function `feedback` for them"
        )
    if method.feedback is not None and len(method.phases) == 1:
        raise ValueError(
            f"method {method.name!r} has a function `feedback` but no phase that calls it; list phases"
        )


def _check_places(method):
    for place in method.reads:
        section = str(place).split(".")[0]
        if place not in READABLE and section not in READABLE:
            raise ValueError(
                f"method {method.name!r} reads {place!r}; allowed are {', '.join(READABLE)}, and keys of these sections"
            )
    for section in method.simulations.values():
        if section not in SIMULATIONS or not (section == EQUILIBRIUM or method.reads_any(section)):
            raise ValueError(
                f"method {method.name!r} simulates {section!r}; allowed are {', '.join(SIMULATIONS)}, and it has to be "
                "in `reads`"
            )


def _check_signatures(method, functions):
    """Check that each function can be called with the arguments that it will be given."""
    gradient = 3 + method.has_arrays
    counts = {
        "forward": gradient,
        "feedback": gradient,
        "after_step": gradient - 1,
        "predict": gradient,
        "prepare": 2,
        "parameters": 2,
        "layer_parameters": 2,
        "state": 2,
        "rules": 1,
    }
    for name, count in counts.items():
        if functions[name] is None:
            continue
        try:
            inspect.signature(functions[name]).bind(*range(count))
        except TypeError as error:
            arguments = {1: "(config)", 2: "(network, config)", 3: "(network, minibatch, config)"}.get(
                count, "(network, minibatch, config, arrays)"
            )
            if name == "predict":
                arguments = arguments.replace("minibatch", "x")
            if name == "after_step" and count == 3:
                arguments = "(network, config, arrays)"
            raise ValueError(
                f"method {method.name!r}: {name} is called with {arguments}, which it does not take ({error})"
            ) from None
        except ValueError:  # a function without a signature
            continue
