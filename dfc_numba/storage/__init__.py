"""Trajectories in HDF5 files: written record by record, opened anywhere, read lazily, replayed from what they hold.

schema.py, table.py      what is in a file; data sets that grow together
kinds.py                 what is simulated: feedback phases, dynamic inversion
recipe.py                what a replay of a record needs
writer.py, segments.py   writing a file; a run's files, closed one after the other
reader.py                reading files, segments and run directories
recomputation.py         what a recipe gives: trajectory and update
replay.py, deviation.py  computing records again, and comparing bit for bit
resimulation.py          new files from recipes: full trajectories, another controller
source.py                a trajectory to analyse, stored or in memory
analysis_file.py         what was measured of networks and minibatches
"""
