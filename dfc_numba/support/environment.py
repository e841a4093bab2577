"""What `dfc info` and run.json tell: versions, processor, threads, linear algebra, cache folder."""

import os
import platform
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from dfc_numba._version import __version__
from dfc_numba.support import ranks
from dfc_numba.support.jobs import current_job

PACKAGES = ("numba", "llvmlite", "numpy", "scipy", "h5py", "pydantic")


def environment():
    """A nested dict of plain values that describes this installation and machine."""
    return {
        "dfc_numba": __version__,
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "machine": _machine(),
        "threads": _threads(),
        "blas": _blas(),
        "cache": str(cache_folder()),
        **({"ranks": _ranks()} if ranks.world() else {}),
        **({"job": job} if (job := current_job()) else {}),
    }


def lines(values, indent=""):
    """A nested dict as aligned lines of text."""
    width = max(map(len, values))
    for key, value in values.items():
        if isinstance(value, dict):
            yield f"{indent}{key}"
            yield from lines(value, indent + "  ")
        elif isinstance(value, list):
            facts = [", ".join(f"{name} {fact}" for name, fact in entry.items()) for entry in value]
            yield from (f"{indent}{key:<{width}}  {text}" for text in facts)
        else:
            yield f"{indent}{key:<{width}}  {value}"


def cache_folder():
    """Return the folder that compiled kernels are kept in: below NUMBA_CACHE_DIR, or beside the sources."""
    from dfc_numba.kernels.cache import KERNELS, folders

    return folders(KERNELS / "cache.py")[0]


def processor_name():
    """The processor's model name, or the architecture where the system does not tell."""
    try:
        if sys.platform == "darwin":
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration, subprocess.CalledProcessError):
        return platform.machine()


def _machine():
    return {
        "host": socket.gethostname(),
        "system": platform.platform(),
        "processor": processor_name(),
        "processors": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def _threads():
    from dfc_numba.support import threads

    return {
        "available": threads.available(),
        "layer": "Python threads; the kernels release the interpreter lock",
    }


def _ranks():
    from mpi4py import MPI

    world = ranks.world()
    library = MPI.Get_library_version().splitlines()[0].strip().rstrip("\0")
    return {"ranks": world.size, "nodes": world.nodes, "on this node": world.local, "library": library}


def _blas():
    """The linear algebra libraries that are loaded, with their threads."""
    import scipy.linalg  # noqa: F401  (loads the library that the kernels call)
    from threadpoolctl import threadpool_info

    keys = ("internal_api", "version", "num_threads", "architecture")
    return [{key: pool.get(key) for key in keys} for pool in threadpool_info() if pool["user_api"] == "blas"]
