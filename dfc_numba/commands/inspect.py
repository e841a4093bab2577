"""What `dfc inspect` tells of a trajectory file or run directory."""

import sys

from dfc_numba.storage import inspection
from dfc_numba.storage.reader import open_trajectories

SHOWN = 20


def inspect(path, *, quick=False):
    """Describes what is stored on standard output, and on standard error what is left aside or damaged.

    Args:
        quick: do not read everything to look for damage.

    Returns:
        whether all is well.
    """
    with open_trajectories(path) as file:
        for line in inspection.description(file):
            print(line)
        for note in file.notes:
            print(f"dfc: {note}", file=sys.stderr)
        if quick:
            return not file.damaged
        damages = list(inspection.damages(file))
    for damage in damages[:SHOWN]:
        print(f"dfc: {damage}", file=sys.stderr)
    if len(damages) > SHOWN:
        print(f"dfc: ... and {len(damages) - SHOWN} more", file=sys.stderr)
    print("\n" + (f"damaged: {len(damages)} parts" if damages else "every checksum fits"))
    return not damages
