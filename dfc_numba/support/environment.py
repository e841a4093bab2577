"""The facts in `dfc info` and run.json: versions, processor, threads, linear algebra, cache folder."""

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

# names of cores by the numbers of their maker and design
ARM_CORES = {
    ("0x41", "0xd03"): "ARM Cortex-A53",
    ("0x41", "0xd07"): "ARM Cortex-A57",
    ("0x41", "0xd08"): "ARM Cortex-A72",
    ("0x41", "0xd0b"): "ARM Cortex-A76",
    ("0x41", "0xd0c"): "ARM Neoverse N1",
    ("0x41", "0xd40"): "ARM Neoverse V1",
    ("0x41", "0xd49"): "ARM Neoverse N2",
    ("0x41", "0xd4f"): "ARM Neoverse V2",
    ("0x46", "0x001"): "Fujitsu A64FX",
    ("0xc0", "0xac3"): "Ampere-1",
}
PACKAGES = ("numba", "llvmlite", "numpy", "scipy", "h5py", "pydantic")


def environment():
    """Return a nested dict of plain values that describes this installation and machine."""
    return {
        "dfc_numba": __version__,
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "machine": _machine(),
        "threads": _threads(),
        "blas": _blas(),
        "cache": str(cache_folder()),
        "ranks": _ranks(),
        **({"job": job} if (job := current_job()) else {}),
    }


def lines(values, indent=""):
    """Yield the lines of a nested dict, aligned."""
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
    """Return the processor's model name, or the architecture where the system does not tell."""
    try:
        if sys.platform == "darwin":
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        return processor_of(Path("/proc/cpuinfo").read_text(encoding="utf-8")) or platform.machine()
    except (OSError, subprocess.CalledProcessError):
        return platform.machine()


def processor_of(cpuinfo):
    """Return the name of the processor that Linux describes in /proc/cpuinfo; "" where the text says nothing of it.

    ARM processors have no model name there, but numbers of their maker and design; a processor may have cores of two kinds.
    """
    pairs = [
        (key.strip(), value.strip())
        for key, _, value in (line.partition(":") for line in cpuinfo.splitlines())
    ]
    named = [value for key, value in pairs if key == "model name"]
    if named:
        return named[0]
    makers = [value.lower() for key, value in pairs if key == "CPU implementer"]
    parts = [value.lower() for key, value in pairs if key == "CPU part"]
    kinds = dict.fromkeys(zip(makers, parts, strict=False))
    return " + ".join(ARM_CORES.get(kind, "ARM implementer {}, part {}".format(*kind)) for kind in kinds)


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
    """Return the ranks that a launcher has started; one where there is none, and whether there could be more."""
    world = ranks.world()
    if world is None:
        try:
            return {"ranks": 1, "nodes": 1, "mpi4py": metadata.version("mpi4py")}
        except metadata.PackageNotFoundError:
            return {"ranks": 1, "nodes": 1, "mpi4py": "not installed: pip install 'dfc-numba[mpi]'"}
    from mpi4py import MPI

    library = MPI.Get_library_version().splitlines()[0].strip().rstrip("\0")
    return {"ranks": world.size, "nodes": world.nodes, "on this node": world.local, "library": library}


def _blas():
    """Return the linear algebra libraries that are loaded, with their threads."""
    import scipy.linalg  # noqa: F401  (loads the library that the kernels call)
    from threadpoolctl import threadpool_info

    keys = ("internal_api", "version", "num_threads", "architecture")
    return [{key: pool.get(key) for key in keys} for pool in threadpool_info() if pool["user_api"] == "blas"]
