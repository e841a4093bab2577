"""Files in HDF5: networks and trajectories, written record by record, opened anywhere, read lazily, replayed.

schema.py, table.py      what is in a trajectory file; data sets that grow together
recipes.py               what is simulated, what a replay needs, and what it gives
writer.py, segments.py   writing a file, or one of several; a run's files, closed one after the other
hdf5_fast.py             chunks past HDF5's filters, files on disks that may fill
reader.py, stored.py     reading files, segments and run directories; variables and records
replay.py                computing records again, bit for bit; new files from recipes
inspection.py            what is in a file; what is damaged
network_file.py          networks
xarray_export.py         trajectories in memory as data sets of xarray
analysis_file.py         what was measured of networks and minibatches

Importing this package binds the formats to `Network.save` and to `save` of trajectories (`support.filing`).
"""

from importlib import import_module

from dfc_numba.support import filing


def _later(module, name):
    """Return a function of a module of this package, which is imported at its first call."""

    def call(*arguments, **options):
        return getattr(import_module(f"{__name__}.{module}"), name)(*arguments, **options)

    return call


filing.bind("network", _later("network_file", "write"), _later("network_file", "read"))
filing.bind(
    "trajectory", _later("writer", "save"), _later("reader", "load"), _later("xarray_export", "to_xarray")
)
