"""Trajectories in memory as data sets of xarray (the extra `xarray`), as a trajectory file would hold them."""

import numpy as np

from dfc_numba.errors import MissingExtra
from dfc_numba.storage import recipes, schema
from dfc_numba.storage.writer import trajectory_arrays


def to_xarray(trajectory):
    """Return the `xarray.Dataset` of a trajectory; arrays are not copied."""
    try:
        import xarray
    except ImportError:
        raise MissingExtra(
            "to_xarray needs xarray, which the extra xarray installs: pip install 'dfc-numba[xarray]'"
        ) from None
    arrays = {
        name: (_dims(name), array, _attributes(name)) for name, array in trajectory_arrays(trajectory).items()
    }
    coordinates = {
        "step": ("step", trajectory.step, {"long_name": schema.DIMENSIONS["step"]}),
        "time": ("step", trajectory.time, _attributes("time") | {"units": _unit_of_time(trajectory)}),
    }
    if "position" in arrays:
        coordinates["position"] = arrays.pop("position")
    for dims, array, *_ in arrays.values():
        coordinates |= {
            dim: (dim, np.arange(n))
            for dim, n in zip(dims, array.shape, strict=True)
            if dim not in coordinates
        }
    facts = {"schema": schema.SCHEMA, "schema_version": schema.SCHEMA_VERSION}
    if trajectory.recipe is not None:
        facts |= {"phase": trajectory.recipe.phase, "network": repr(trajectory.recipe.network)}
    return xarray.Dataset(arrays, coordinates, facts)


def _dims(name):
    return tuple(dim for dim in schema.variable(name).dims if dim != schema.RECORD)


def _attributes(name):
    about = schema.variable(name)
    facts = {"long_name": about.long_name, "units": about.units}
    if about.meanings:
        words = about.meanings.split()
        facts |= {"flag_values": np.arange(len(words)), "flag_meanings": about.meanings}
    return facts


def _unit_of_time(trajectory):
    return "tau_r" if recipes.of_trajectory(trajectory) is recipes.INVERSION else "tau_u"
