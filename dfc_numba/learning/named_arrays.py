"""Lists of arrays as dicts by name, as the optimisers and checkpoints of a method's own arrays have them; their random seed."""

STREAM = 2  # of the random numbers of training.seed; 0 and 1 draw weights and the feedback of inversion


def negative(arrays):
    """Return the arrays with the other sign; None for None."""
    return None if arrays is None else [-array for array in arrays]


def numbered(prefix, arrays):
    """Return the arrays by name: Q1, Q2, ..."""
    return {f"{prefix}{i}": array for i, array in enumerate(arrays or [], 1)}


def listed(prefix, own):
    """Invert `numbered`; return None if there are no arrays."""
    found = [own[name] for name in (f"{prefix}{i}" for i in range(1, len(own) + 1)) if name in own]
    return found or None


def seed_of(config):
    """Return the seed of the arrays of a method's own."""
    return [config.training.seed, STREAM]
