"""What a section `[log]` means: which minibatches of a run are logged, what is kept of each, how large that will be."""

from dfc_numba.configuration.config_usage import logged_phases, simulation_of
from dfc_numba.dynamics.simulation import Record
from dfc_numba.storage import kinds
from dfc_numba.support.validation import dtype_of


def chooses(log, position, number, count):
    """Whether a minibatch is logged: number `position` of `count` in its pass, from 1; `number` in the run, from 0."""
    return (
        (log.every is not None and (position - 1) % log.every == 0)
        or (log.last_of_epoch and position == count)
        or number in log.minibatches
    )


def kept(log, dynamics, count):
    """The `Record` of a minibatch of `count` samples; None where there is nothing to record.

    Args:
        dynamics: the `Controller` or `Inversion` that is simulated, or None.
    """
    if log.recipe_only or dynamics is None:
        return None
    chosen = range(log.samples) if isinstance(log.samples, int) else log.samples
    samples = tuple(sample for sample in chosen if sample < count)
    variables = kinds.of_options(dynamics).wanted(log.variables, dynamics)
    return (
        Record(variables=variables, samples=samples, every=log.every_step) if samples and variables else None
    )


def trajectory_bytes(network, dynamics, keep):
    """Bytes of a recorded trajectory in memory; keep: its `Record`, or None."""
    if keep is None:
        return 0
    return kinds.of_options(dynamics).recorded_bytes(network, dynamics, len(keep.samples), keep)


def expected(config, network, schedule, n_samples):
    """(records, bytes): how many records the log of a whole run has, and about how large they are before compression.

    Args:
        schedule: the list of `Pass`. n_samples: size of the training set.
    """
    count = -(-n_samples // config.training.batch_size)
    records, size = 0, 0
    for index, current in enumerate(schedule):
        if current.phase in logged_phases(config):
            positions = range(1, count + 1)
            chosen = sum(chooses(config.log, place, index * count + place - 1, count) for place in positions)
            records += chosen
            size += chosen * _stored_bytes(config, network, current.phase)
    return records, size


def _stored_bytes(config, network, phase):
    """About the bytes of a record in a file: its trajectory, what was learned, and what it was learned from."""
    section, batch, itemsize = (
        simulation_of(phase, config),
        config.training.batch_size,
        network.dtype.itemsize,
    )
    dynamics = kinds.configured(section, config)
    recorded = trajectory_bytes(network, dynamics, kept(config.log, dynamics, batch))
    learned = network.weights if phase == "forward" else network.feedback
    given = batch * (network.sizes[0] * itemsize + 16 * network.sizes[-1])
    parameters = sum(array.nbytes for array in learned) * (1 + config.log.updates)
    return recorded * dtype_of(config.log.dtype).itemsize // itemsize + parameters + given
