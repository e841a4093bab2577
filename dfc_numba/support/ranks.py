"""Ranks: the processes of one training over MPI, `mpirun -n R dfc train ...`.

Every rank holds the whole state of the run and does the same steps. What costs time, the simulation of a minibatch, is cut
into shards; each rank simulates a contiguous range of them. Sums over shards follow the tree of `support.summation`, and what
belongs to single samples is put together byte by byte, so the results have the same bits for any number of ranks.

Only rank 0, the root, writes and speaks. Ranks end together: a rank that fails aborts all of them, after its message.
"""

import io
import os
import sys
import time
import traceback
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dfc_numba.errors import MissingExtra
from dfc_numba.support.jobs import whole

# how many processes a launcher says that it has started: MPICH and Intel MPI (also SLURM's pmi2), Open MPI, SLURM's steps
LAUNCHERS = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
FOLLOWER_WAITS = 1.0  # seconds; where all ranks fail alike, the root's message is enough
_world = None


def expected():
    """Return how many processes the launcher has started with this one; 1 without a launcher."""
    return next((count for name in LAUNCHERS if (count := whole(name, 0))), 1)


def size():
    """Return the number of ranks."""
    return 1 if _world is None else _world.size


def rank():
    """Return the number of this rank, from 0."""
    return 0 if _world is None else _world.rank


def sharing():
    """Return how many ranks of this host may use the same processors as this one."""
    return 1 if _world is None else _world.sharing


def is_root():
    """Return whether this process writes and speaks for all."""
    return rank() == 0


@dataclass
class World:
    """The ranks of a run.

    Attributes:
        communicator: of mpi4py. rank, size: of this process. nodes: number of hosts. local: ranks on this one.
        sharing: how many ranks may use the processors of this one.
        finished: whether all ranks have come to their common end.
        seconds, bytes: spent on and moved by communication in this process.
    """

    communicator: object
    rank: int
    size: int
    nodes: int
    local: int
    sharing: int
    finished: bool = False
    seconds: float = 0.0
    bytes: int = 0
    held: io.StringIO = field(default_factory=io.StringIO)


def world():
    """Return the `World`, or None in a single process."""
    return _world


@contextmanager
def session():
    """Join the other ranks within a `with` block, if a launcher has started some.

    A process that leaves the block without `finish` aborts all ranks, with its message and exit code.

    Raises:
        MissingExtra: mpi4py is not installed. RuntimeError: MPI sees other processes than the launcher has started.
    """
    global _world
    count = expected()
    if count == 1:
        yield None
        return
    _world = _join(count)
    if not is_root():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (until the process ends)
        sys.stderr = _world.held
    try:
        yield _world
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if not _world.finished:
            _abort(code)
        raise
    except BaseException:  # noqa: BLE001 (all ranks end with this one)
        traceback.print_exc()
        _abort(1)
    if not _world.finished:
        _abort(0)


def finish():
    """Wait for the other ranks, all of which end now."""
    if _world is not None:
        _world.communicator.Barrier()
        _world.finished = True


def _join(count):
    try:
        import mpi4py
    except ImportError:
        raise MissingExtra(
            f"the launcher has started {count} processes, but mpi4py is not installed, so each would train by itself: "
            "pip install 'dfc-numba[mpi]'"
        ) from None
    mpi4py.rc.thread_level = "funneled"
    _find_library(Path(mpi4py.__file__).parents[3])
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise MissingExtra(
            f"mpi4py finds no MPI ({str(error).splitlines()[0]}): load the module of your site, or pip install mpich"
        ) from None
    communicator = MPI.COMM_WORLD
    if communicator.size != count:
        raise RuntimeError(
            f"the launcher has started {count} processes, but MPI ({MPI.Get_library_version().split(chr(10))[0].strip()}) sees "
            f"{communicator.size}: each would train by itself; use the launcher of this MPI (MPICH: srun --mpi=pmi2, or its "
            "own mpirun; Open MPI: srun --mpi=pmix)"
        )
    here = communicator.Split_type(MPI.COMM_TYPE_SHARED)
    nodes = communicator.allreduce(1 if here.rank == 0 else 0)
    affinity = getattr(os, "sched_getaffinity", lambda _: {0})(0)
    sharing = here.allgather(sorted(affinity)).count(sorted(affinity))
    return World(communicator, communicator.rank, communicator.size, nodes, here.size, sharing)


def _find_library(folder):
    """Tell mpi4py of the library beside it, which it looks for beside Python alone, as in an environment that uses another."""
    beside = [
        str(path) for path in sorted(folder.glob("libmpi.so.*")) if path.stat().st_size > 1000
    ]  # no text stubs
    if beside and not list(Path(sys.prefix, "lib").glob("libmpi.so*")):
        os.environ.setdefault("MPI4PY_LIBMPI", os.pathsep.join(beside))


def _abort(code):
    """End all ranks; what a rank has to say is said first."""
    if code == 0 and _world.size > 1:
        # a command that ends well on every rank, such as --help: no rank waits for another
        _world.communicator.Barrier()
        _world.finished = True
        return
    if not is_root():
        time.sleep(FOLLOWER_WAITS)
        for line in _world.held.getvalue().splitlines():
            print(f"rank {_world.rank}: {line}", file=sys.__stderr__)
    for stream in (sys.stdout, sys.__stderr__):
        stream.flush()
    _world.communicator.Abort(code)


# --- dividing and putting together -------------------------------------------------------------------------------------------


def split(pieces, number=None):
    """Return the first piece of each rank, and after the last one: `number` + 1 numbers; ranges are as even as possible."""
    number = size() if number is None else number
    return [pieces * k // number for k in range(number + 1)]


def own(pieces):
    """Return the range of pieces that this rank does."""
    ends = split(pieces)
    return range(ends[rank()], ends[rank() + 1])


@contextmanager
def _counted(count):
    start = time.perf_counter()
    yield
    _world.seconds += time.perf_counter() - start
    _world.bytes += count


def complete(tree, new):
    """Bring a `TreeSum`, into which each rank has put its own shards, to its total on every rank.

    Nodes go up a binomial tree of the ranks, so that each message holds a few sums, however many shards there are.

    Args:
        new: function that returns an array to receive a sum in.
    """
    if size() == 1:
        return tree.total
    communicator, me, count, step = _world.communicator, _world.rank, _world.size, 1
    with _counted(0):
        while step < count:
            if me % (2 * step) == step:
                nodes = tree.nodes
                communicator.send(list(nodes), dest=me - step)
                for value in nodes.values():
                    communicator.Send(value, dest=me - step)
                    _world.bytes += value.nbytes
                break
            if me % (2 * step) == 0 and me + step < count:
                for level, place in communicator.recv(source=me + step):
                    value = new()
                    communicator.Recv(value, source=me + step)
                    tree.put(place, value, level)
            step *= 2
        total = tree.total if me == 0 else new()
        communicator.Bcast(total, root=0)
        _world.bytes += total.nbytes
    return total


def clear(*arrays):
    """Fill arrays with zeros that are to be put together."""
    if size() > 1:
        for array in arrays:
            array.fill(0)


def unite(*arrays):
    """Put arrays together in place, of which each rank has filled its own part and left zeros elsewhere."""
    if size() == 1:
        return
    import numpy as np  # not at the top: every command of `dfc` imports this module
    from mpi4py import MPI

    for array in arrays:
        if array.size:
            flat = array.reshape(-1).view(np.uint8)
            if not np.shares_memory(flat, array):
                raise ValueError("only contiguous arrays can be gathered in place")
            with _counted(flat.nbytes):
                _world.communicator.Allreduce(MPI.IN_PLACE, flat, op=MPI.BOR)


def agree(reason):
    """Return what any rank has as a reason (None: it has none), the same on every rank: that of the lowest rank that has one."""
    if size() == 1:
        return reason
    import numpy as np
    from mpi4py import MPI

    flag, found = np.array([0 if reason is None else 1], np.int8), np.zeros(1, np.int8)
    with _counted(1):
        _world.communicator.Allreduce(flag, found, op=MPI.MAX)
        if not found[0]:
            return None
        reasons = _world.communicator.allgather(reason)
    return next(one for one in reasons if one is not None)


def share(value):
    """Return the root's value on every rank."""
    return value if size() == 1 else _world.communicator.bcast(value, root=0)


def root_first(function, *arguments):
    """Return function(*arguments), called by the root before the others, as for what is downloaded once."""
    if is_root():
        result = function(*arguments)
    share(None)
    return result if is_root() else function(*arguments)


def gather(value):
    """Return a list of the values of all ranks, on every rank."""
    return [value] if size() == 1 else _world.communicator.allgather(value)
