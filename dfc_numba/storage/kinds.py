"""The kinds of simulations that trajectory files hold: the feedback phase of a controller, and dynamic inversion.

All that differs between them is in the table `KINDS`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from dfc_numba.dynamics import simulation as control
from dfc_numba.inversion import simulation as inversion
from dfc_numba.inversion.trajectory import InversionTrajectory
from dfc_numba.learning.inversion import inversion_of
from dfc_numba.model.controller import Controller
from dfc_numba.storage import schema


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of simulation.

    Attributes:
        name: of its options in a `Recipe`, in the attributes of a phase, and of their section in a configuration.
        options: their class. trajectory: class of what is recorded.
        what: what to call it.
        variables: names of all that can be recorded. usual: those that are recorded unless others are chosen.
        time_unit: in which its time is measured.
        simulate: function of (recipe, record) that returns the trajectory.
        facts: function of the names of the stored variables, for the other fields of its trajectory.
        recorded_bytes: function of (network, options, number of samples, record).
    """

    name: str
    options: type
    trajectory: type
    what: str
    variables: tuple
    usual: tuple
    time_unit: str
    simulate: Callable
    facts: Callable
    recorded_bytes: Callable

    def wanted(self, names, options):
        """Of names of variables of any kind those that a simulation with these options has; the usual ones where none is."""
        own = [name for name in names if name in self.variables] or self.usual
        return tuple(name for name in own if name != "noise" or options.noisy)


def _controlled(recipe, record):
    return control.simulate(
        recipe.network, recipe.x, recipe.target, recipe.controller, noise=recipe.noise, record=record
    )


def _inverted(recipe, record):
    return inversion.simulate_inversion(
        recipe.network, recipe.x, recipe.target, recipe.inversion, record=record
    )


def _depth(names):
    layers = schema.stored_layers("r_y", names) or [layer + 1 for layer in schema.stored_layers("r_x", names)]
    return {"depth": max(layers)}


CONTROL = Kind(
    name="controller",
    options=Controller,
    trajectory=control.Trajectory,
    what="feedback phase",
    variables=control.Variable.__args__,
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
    variables=inversion.VARIABLES,
    usual=inversion.VARIABLES,
    time_unit="tau_r",
    simulate=_inverted,
    facts=_depth,
    recorded_bytes=inversion.recorded_bytes,
)
KINDS = {kind.name: kind for kind in (CONTROL, INVERSION)}


def of_options(options):
    """The `Kind` of a `Controller` or an `Inversion`; for None, where nothing is simulated, that of a controller."""
    return next((kind for kind in KINDS.values() if isinstance(options, kind.options)), CONTROL)


def of_trajectory(trajectory):
    """The `Kind` of a recorded trajectory."""
    return next(kind for kind in KINDS.values() if isinstance(trajectory, kind.trajectory))


def of_attributes(names):
    """The `Kind` of a phase whose group has attributes of these names."""
    return INVERSION if INVERSION.name in names else CONTROL


def configured(section, config):
    """The `Controller` or `Inversion` of a section of a configuration; None for None."""
    if section == INVERSION.name:
        return inversion_of(config)
    return section and getattr(config, section)
