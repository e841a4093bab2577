"""`dfc` with a log whose segments are closed more often, and checkpoints too, for the tests that kill it."""

from dfc_numba.cli import main
from dfc_numba.storage import logger

if __name__ == "__main__":
    logger.SEGMENT_SECONDS = 0.05
    main()
