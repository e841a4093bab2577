"""The kinds of simulations: what a replay of a record needs in a file, and its results, trajectory and update."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import get_args

import numpy as np

from dfc_numba.dynamics import expected_feedback, plasticity
from dfc_numba.dynamics import simulation as control
from dfc_numba.dynamics.phase import judging_divergence
from dfc_numba.inversion import dynamic_inversion as inversion
from dfc_numba.inversion.trajectory import InversionTrajectory
from dfc_numba.learning.equilibrium_methods import equilibrium_of
from dfc_numba.learning.inversion_methods import inversion_of, inversion_update
from dfc_numba.model.controller import Controller
from dfc_numba.model.noise_key import NoiseKey, as_key
from dfc_numba.model.recording import StoredUpdate
from dfc_numba.registry import VARIABLES
from dfc_numba.relatives import equilibrium_trajectory as equilibrium
from dfc_numba.relatives.equilibrium_propagation import EquilibriumPropagation
from dfc_numba.storage import schema
from dfc_numba.support.validation import choice

# --- kinds of simulation ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of simulation.

    Attributes:
        name: of its options in a `Recipe`, in the attributes of a phase, and of their section in a configuration.
        options: their class. trajectory: class of what is recorded.
        what: what to call it. steps: the key of a configuration that says how many steps there are.
        variables: names of all that can be recorded. usual: those that are recorded unless others are chosen.
        time_unit: in which its time is measured.
        simulate: function of (recipe, record) that returns the trajectory.
        facts: function of the names of the stored variables, for the other fields of its trajectory.
        recorded_bytes: function of (network, options, number of samples, record).
        has: function of (name of a variable, options) that tells whether a simulation with these options has it.
    """

    name: str
    options: type
    trajectory: type
    what: str
    steps: str
    variables: tuple
    usual: tuple
    time_unit: str
    simulate: Callable
    facts: Callable
    recorded_bytes: Callable
    has: Callable = lambda name, options: name != "noise" or options.noisy

    def wanted(self, names, options):
        """Return which of these variables a simulation with these options has; the usual ones where none is named."""
        formulas = VARIABLES if self.name == "controller" else ()
        own = [name for name in names if name in self.variables or name in formulas] or self.usual
        return self.possible(own, options)

    def possible(self, names, options):
        """Return which of the names a simulation with these options has."""
        return tuple(name for name in names if self.has(name, options))


def _controlled(recipe, record):
    with judging_divergence():
        return control.simulate(
            recipe.network, recipe.x, recipe.target, recipe.controller, noise=recipe.noise, record=record
        )


def _inverted(recipe, record):
    return inversion.simulate_inversion(
        recipe.network, recipe.x, recipe.target, recipe.inversion, record=record
    )


def _relaxed(recipe, record):
    return equilibrium.simulate_equilibrium(
        recipe.network, recipe.x, recipe.target, recipe.equilibrium, record=record
    )


def _depth(names):
    layers = schema.stored_layers("r_y", names) or [layer + 1 for layer in schema.stored_layers("r_x", names)]
    return {"depth": max(layers)}


CONTROL = Kind(
    name="controller",
    options=Controller,
    trajectory=control.Trajectory,
    what="feedback phase",
    steps="controller.steps",
    variables=get_args(control.Variable),
    usual=control.VARIABLES,
    time_unit="tau_u",
    simulate=_controlled,
    facts=lambda names: {},
    recorded_bytes=control.recorded_bytes,
)
INVERSION = Kind(
    name="inversion",
    options=inversion.Inversion,
    trajectory=InversionTrajectory,
    what="dynamic inversion",
    steps="inversion.steps",
    variables=inversion.VARIABLES,
    usual=inversion.VARIABLES,
    time_unit="tau_r",
    simulate=_inverted,
    facts=_depth,
    recorded_bytes=inversion.recorded_bytes,
)
EQUILIBRIUM = Kind(
    name="equilibrium",
    options=EquilibriumPropagation,
    trajectory=equilibrium.EquilibriumTrajectory,
    what="equilibrium propagation",
    steps="method.free_steps",
    variables=equilibrium.VARIABLES,
    usual=equilibrium.VARIABLES,
    time_unit="tau",
    simulate=_relaxed,
    facts=lambda names: {},
    recorded_bytes=equilibrium.recorded_bytes,
    has=lambda name, options: name in equilibrium.names_of(options),
)
KINDS = {kind.name: kind for kind in (CONTROL, INVERSION, EQUILIBRIUM)}


CONFIGURED = {INVERSION.name: inversion_of, EQUILIBRIUM.name: equilibrium_of}


def of_options(options):
    """Return the `Kind` of a `Controller`, `Inversion` or `EquilibriumPropagation`; CONTROL for None (no simulation)."""
    return next((kind for kind in KINDS.values() if isinstance(options, kind.options)), CONTROL)


def of_trajectory(trajectory):
    """Return the `Kind` of a recorded trajectory."""
    return next(kind for kind in KINDS.values() if isinstance(trajectory, kind.trajectory))


def of_attributes(names):
    """Return the `Kind` of a phase whose group has attributes of these names."""
    return next((kind for kind in KINDS.values() if kind.name in names and kind is not CONTROL), CONTROL)


def configured(section, config):
    """Return the `Controller`, `Inversion` or `EquilibriumPropagation` that a configuration simulates, or None."""
    if section in CONFIGURED:
        return CONFIGURED[section](config)
    return section and getattr(config, section)


# --- what a record holds of it ------------------------------------------------------------------------------

PRECISE = ("float32", "float64")


def recipe_arrays(recipe):
    """Return a recipe's variables of a record by their names in the file, without the parameters."""
    count = len(recipe.x)
    arrays = {
        "inputs": _precise(recipe.x),
        "target": np.asarray(recipe.target, np.float64),
        "sample_index": np.full(count, -1)
        if recipe.indices is None
        else np.asarray(recipe.indices, np.int64),
        **{name: np.int64(getattr(recipe, name)) for name in ("epoch", "minibatch", "number")},
        "minibatch_size": np.int64(count),
        **_noise_arrays(recipe.noise, count),
    }
    return arrays if recipe.labels is None else arrays | {"labels": np.asarray(recipe.labels, np.float64)}


def _precise(x):
    """Return the array as float32 if it is, else as float64."""
    x = np.asarray(x)
    return x if x.dtype.name in PRECISE else x.astype(np.float64)


def _noise_arrays(noise, count):
    key = as_key(noise)
    if key is None:
        kind = schema.NO_NOISE if noise is None else schema.GIVEN_NOISE
        key, draws = NoiseKey(0), noise
    else:
        kind, draws = schema.KEYED_NOISE, None
    numbers = np.full(count, -1) if key.samples is None else np.asarray(key.samples, np.int64)
    arrays = {
        "noise_kind": np.int8(kind), "noise_seed": np.uint64(key.seed),
        "noise_minibatch": np.uint64(key.minibatch), "noise_sample": numbers,
    }  # fmt: skip
    draws = [_precise(array).reshape(-1, *np.shape(array)[-2:]) for array in draws or []]
    return arrays | schema.by_layer("draws", draws)


def noise_of(read, depth):
    """Return the noise of a record: None, a `NoiseKey` or a list of draws; `read(name)` reads a variable of it."""
    kind = int(read("noise_kind"))
    if kind == schema.NO_NOISE:
        return None
    if kind == schema.KEYED_NOISE:
        numbers = read("noise_sample")
        return NoiseKey(
            int(read("noise_seed")), int(read("noise_minibatch")), None if (numbers < 0).all() else numbers
        )
    draws = [read(f"draws_{layer}") for layer in range(1, depth + 1)]
    return [array[0] if len(array) == 1 else array for array in draws]


def update_arrays(update):
    """Return an update's variables of a record; it may have any of the lists `weights`, `biases`, `feedback`."""
    parts = (schema.by_layer(name, getattr(update, kind, None)) for kind, name in schema.UPDATES.items())
    return {name: array for part in parts for name, array in part.items()}


# --- trajectory and update ----------------------------------------------------------------------------------

ONE_SHOT, EXPECTED = "one_shot_feedback_update", "expected_feedback_update"
NOISELESS = {
    function.__name__: function for function in (inversion_update, equilibrium.recorded_equilibrium_update)
}
SIMULATING = ("forward_update", "feedback_update", "forward_and_feedback_update", *NOISELESS)
FUNCTIONS = (*SIMULATING, ONE_SHOT, EXPECTED)


def computed(recipe, keep=None):
    """Return trajectory and update of a recipe.

    A simulation for an update may round in another way than `simulate`: the trajectory is that of the simulation that the
    update was made of, if there was one.

    Args:
        recipe: a `Recipe`; `recipe.update` is empty, or a dict with "function", the name of a function of `FUNCTIONS`, and
            its keyword arguments.
        keep: a `Record`: what to keep of the trajectory; None for no trajectory.

    Returns:
        (trajectory or None, `StoredUpdate` or None): None for what is not asked for or described.

    Raises:
        ValueError, TypeError: for a recipe that cannot be carried out.
    """
    if not recipe.update:
        return _simulated(recipe, keep), None
    if not simulates(recipe.update):
        return _simulated(recipe, keep), _merged(_made(recipe))
    made = _made(recipe, record=keep)
    return made[0].trajectory, _merged(made)


def simulates(update):
    """Return whether an update, described as in a `Recipe`, is made from a simulation."""
    return update.get("function") in SIMULATING and update.get("readout") not in plasticity.SOLVED


def _made(recipe, **options):
    """Return the results of the function that the recipe names, as a tuple."""
    options |= recipe.update
    name = choice("the function of the update", options.pop("function", None), FUNCTIONS)
    arguments = (recipe.network, recipe.x, recipe.target, recipe.dynamics)
    if name in NOISELESS:
        return (NOISELESS[name](*arguments, **options),)
    if name == ONE_SHOT:
        arguments = arguments[:2]
    module = expected_feedback if name == EXPECTED else plasticity
    with judging_divergence():
        made = getattr(module, name)(*arguments, noise=recipe.noise, **options)
    return made if isinstance(made, tuple) else (made,)


def _merged(parts):
    """Return the arrays of several updates as one update."""
    kinds = [field.name for field in fields(StoredUpdate)]
    return StoredUpdate(
        **{kind: getattr(part, kind) for part in parts for kind in kinds if hasattr(part, kind)}
    )


def _simulated(recipe, keep):
    if keep is None:
        return None
    if recipe.dynamics is None:
        raise ValueError(f"nothing is simulated in the phase {recipe.phase!r}, which has no controller")
    return of_options(recipe.dynamics).simulate(recipe, keep)
