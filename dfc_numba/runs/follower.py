"""Stand-ins for run directory and log on ranks other than the root: they write nothing, unless they fail."""

import hashlib
import warnings
from pathlib import Path

from dfc_numba.errors import ConfigurationError
from dfc_numba.learning.phases import logged_phases
from dfc_numba.runs.checkpoint import CheckpointPair
from dfc_numba.runs.logger import Logger, kept
from dfc_numba.runs.run_directory import read_record, write_record
from dfc_numba.storage.recipes import simulates
from dfc_numba.support import ranks
from dfc_numba.support.environment import environment


class FollowerDirectory:
    """The directory of a run, which the root writes to."""

    def __init__(self, path):
        self.path, self.resumed = Path(path), False

    def find_checkpoint(self):
        """Return the `Checkpoint` that the root has found; the root reports problems."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return CheckpointPair(self.path).find()

    def discard(self):
        """Leave the directory to the root."""

    def close(self, status, stop_reason, **facts):
        """Write into run.json that this rank failed, which the root cannot do any more; all other endings are the root's."""
        record = read_record(self.path)
        if status == "failed" and record is not None and record.get("status") == "running":
            record.update(status=status, stop_reason=f"rank {ranks.rank()}: {stop_reason}", **facts)
            write_record(self.path, record)


class FollowerLogger(Logger):
    """Records what the root logs, since ranks simulate together; writes nothing."""

    def __init__(self, config):
        self._config, self._phases = config, frozenset(logged_phases(config))

    def updated(self, function, network, minibatch, *arguments, **options):
        """Return what the function makes of a minibatch, for the arguments see `Logger.updated`."""
        dynamics = arguments[1] if arguments else None
        update = {"function": function.__name__, **options}
        keep = kept(self._config.log, dynamics if simulates(update) else None, len(minibatch.x))
        return function(network, minibatch.x, *arguments, **options, **({"record": keep} if keep else {}))

    def on_start(self, trainer):
        """Leave it to the root."""

    on_minibatch = on_end = on_start

    def settle(self):
        """Leave it to the root."""

    def __exit__(self, *_):
        pass


class Unison:
    """An observer that makes sure that all ranks have the same parameters after every epoch."""

    def __init__(self, trainer):
        self._trainer = trainer

    def on_epoch(self, row):
        """Raise RuntimeError where ranks have come apart."""
        digest = hashlib.sha256()
        network = self._trainer.network
        for kind in (network.weights, network.biases, network.feedback):
            for array in kind or []:
                digest.update(memoryview(array).cast("B"))
        if len(set(ranks.gather(digest.hexdigest()))) > 1:
            raise RuntimeError(
                f"after epoch {row['epoch']} the ranks have different parameters: a processor or a library computes "
                "differently on one of them; resume on other nodes"
            )


def check_alike():
    """Refuse ranks on different processors, or with different libraries: they would not stay in step."""
    if ranks.size() == 1:
        return
    here = environment()
    facts = {**here["packages"], "python": here["python"], "processor": here["machine"]["processor"]}
    others = ranks.gather((here["machine"]["host"], facts))
    for host, theirs in others:
        for name, value in theirs.items():
            if value != others[0][1][name]:
                raise ConfigurationError(
                    f"ranks differ in {name}: {others[0][1][name]} on {others[0][0]}, {value} on {host}; results would differ "
                    "in their last bits from rank to rank; ask for nodes of one kind, such as srun --constraint=..."
                )
