"""Many runs on an existing engine: this machine, SLURM or Dask.

A sweep is a folder of ordinary run directories with a table of them, `sweep.json`. Nothing else says what is left to do:
state is read from the run directories, so any engine may continue what another one has begun.
"""
