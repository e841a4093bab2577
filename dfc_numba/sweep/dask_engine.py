"""The engine of Dask, for clusters without SLURM: each task does one run in a child process of its worker.

A task returns no more than an exit code: all that counts is in the run directory. So a run whose worker died resumes from
its last checkpoint on another worker, and a finished one that Dask does again is found done.
"""

import os
import signal
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

from dfc_numba._version import __version__
from dfc_numba.errors import ConfigurationError, MissingExtra
from dfc_numba.sweep import local_engine
from dfc_numba.sweep.sweep_folder import TABLE_NAME, SweepFolder

CONNECT_SECONDS = float(os.environ.get("DFC_DASK_SECONDS", 15))
STOP_SECONDS = 120  # that runs are given for their last checkpoint
RETRIES = 5  # of a run whose worker died or stopped
CHILDREN = {}  # of this worker: the processes of its runs, by number
ENDED = set()  # sweeps that the user has ended


class Stopped(RuntimeError):
    """A run ended after a checkpoint because its worker stops; Dask does it again elsewhere."""


def run_all(folder, runs, *, address, threads, at_once, display):
    """Do runs on the workers of a scheduler, or of one that is started here; for the rest see `local_engine.run_all`.

    Args:
        address: of the scheduler, such as tcp://10.0.0.1:8786, or "local".

    Raises:
        MissingExtra: Dask is not installed. ConfigurationError: no scheduler answers, or workers cannot do the runs.
    """
    distributed = _import()
    with _client(distributed, address, at_once) as client, local_engine.signals() as came:
        _check_workers(client, folder, address)
        client.register_plugin(_stopping(distributed), name="dfc-numba")
        tasks, token = {}, os.urandom(8).hex()
        for run in runs:
            future = client.submit(
                do_run, str(folder.path.absolute()), run.index, threads, token, pure=False, retries=RETRIES,
                key=f"dfc-{folder.name}-{run.index}-{os.urandom(4).hex()}",
            )  # fmt: skip
            tasks[future] = run
        codes = _followed(client, tasks, token, came, display)
    return codes, came[0] if came else None


def do_run(folder, index, threads, token):
    """Do one run of a sweep in a child process of this worker; return its exit code. What Dask calls."""
    if token in ENDED:
        return local_engine.INTERRUPTED
    sweep = SweepFolder.open(folder)
    run = sweep.run(index)
    process = local_engine.start(
        sweep, run, threads
    )  # it gets SIGTERM when this process ends, however that happens
    CHILDREN[index] = process
    try:
        code = process.wait()
    finally:
        CHILDREN.pop(index, None)
    if code in (local_engine.INTERRUPTED, -signal.SIGTERM) and token not in ENDED:
        raise Stopped(f"{run.name} ended after a checkpoint")
    return code


def stop_children(token=None):
    """Let the runs of this worker write a checkpoint and end; return how many there are. What Dask calls.

    Args:
        token: of the sweep, where the user has ended it; without, Dask does the runs again elsewhere.
    """
    if token is not None:
        ENDED.add(token)
    for process in list(CHILDREN.values()):
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
    return len(CHILDREN)


def _stopping(distributed):
    """Return a plugin of workers: one that stops lets its runs write a checkpoint."""

    class StopsRuns(distributed.WorkerPlugin):
        def teardown(self, worker):
            stop_children()

    return StopsRuns()


def describe_worker(folder):
    """Return (version of this package, whether the sweep is seen) on a worker. What Dask calls."""
    return __version__, (Path(folder) / TABLE_NAME).is_file()


def _followed(client, tasks, token, came, display):
    """Return exit codes by number of the run; after a signal, of the runs that could end."""
    codes, handled, waiting, stop_at = {}, 0, dict(tasks), None
    begun = set()
    while waiting:
        if len(came) > handled:
            handled = len(came)
            if handled > 1:
                break
            client.run(stop_children, token, on_error="ignore")
            stop_at = local_engine.now() + STOP_SECONDS
        if stop_at is not None and (local_engine.now() >= stop_at):
            break
        for future, run in list(waiting.items()):
            if future.status == "pending":
                continue
            del waiting[future]
            codes[run.index] = _code(future)
            display.ended(run, codes[run.index])
        processing = _processing(client)
        active = [run for future, run in waiting.items() if future.key in processing]
        for run in active:
            if run.index not in begun:
                begun.add(run.index)
                display.begin(run)
        display.show(active)
        local_engine.sleep()
    return codes


def _processing(client):
    with suppress(OSError):
        return {str(key) for keys in client.processing().values() for key in keys}
    return set()


def _code(future):
    """Return the exit code that a task returned; one for a task that failed."""
    if future.status == "finished":
        return future.result()
    if future.status in ("cancelled", "lost"):
        return local_engine.INTERRUPTED
    return local_engine.INTERRUPTED if isinstance(future.exception(), Stopped) else 1


def _import():
    try:
        import distributed
    except ImportError:
        raise MissingExtra("--on dask needs Dask: pip install 'dfc-numba[dask]'") from None
    return distributed


@contextmanager
def _client(distributed, address, at_once):
    if address == "local":
        cluster = distributed.LocalCluster(
            n_workers=at_once, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
        )
        with cluster, distributed.Client(cluster) as client:
            yield client
        return
    try:
        client = distributed.Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"no Dask scheduler answers at {address} ({type(error).__name__}); start one with `dask scheduler`, or use "
            "--on dask:local"
        ) from None
    with client:
        yield client


def _check_workers(client, folder, address):
    """Refuse workers that cannot do the runs of a sweep."""
    try:
        client.wait_for_workers(1, timeout=CONNECT_SECONDS)
    except TimeoutError:
        raise ConfigurationError(
            f"the Dask scheduler at {address} has no workers; start some: dask worker {address} --nthreads 1"
        ) from None
    try:
        found = client.run(describe_worker, str(folder.path.absolute()))
    except Exception as error:  # noqa: BLE001 (whatever keeps a worker from importing this package)
        raise ConfigurationError(
            f"a worker of {address} cannot do runs ({type(error).__name__}: {error}); install dfc-numba {__version__} in the "
            f"environment of the workers (here: {sys.executable})"
        ) from None
    for worker, (version, seen) in found.items():
        if version != __version__:
            raise ConfigurationError(
                f"worker {worker} has dfc-numba {version}, this process {__version__}; install the same version on both"
            )
        if not seen:
            raise ConfigurationError(
                f"worker {worker} does not see {folder.path.absolute()}; choose a folder on a shared file system with --out"
            )
