"""`python -m dfc_numba` is the command `dfc`."""

from dfc_numba.cli import main

main()
