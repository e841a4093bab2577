#!/usr/bin/env python
"""Damage files of every kind that the package reads, and count what reading them gives.

    python scripts/fuzz_files.py [--flips 2000] [--mutants 500] [--kinds network,trajectory,...] [--seed 0]

Each kind of file is written once and then damaged again and again: by a single flipped bit, or by a structural change (cut off,
zeros, noise, moved or repeated blocks, huge numbers). Damaged files are read in a process of their own, with a time limit.
Allowed are the same contents as before and an error or a warning of ours that names the file; of a file without checksums (texts
of a user, HDF5 as others write it) other contents too. Exits with 1 where anything was an internal error, took too long, ended by
a signal, or was silently something else.
"""

import argparse
import hashlib
import os
import pickle
import resource
import select
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

SECONDS, PATIENCE = 10, 120  # of processor time, of time, for one file
TRIES = 50  # of a process before another takes its place
SAME, OTHER, REFUSED, INTERNAL = "same", "something else", "refused", "internal error"
CODES = {0: SAME, 1: OTHER, 2: REFUSED, 3: INTERNAL}
# files without checksums on all that they say: HDF5 as h5py writes it by default has none on its heads
UNSEALED = ("config", "own_h5", "csv")


def network(path):
    """Write a network; return the function that reads it."""
    import dfc_numba as dfc

    dfc.Network.create([12, 6, 3], seed=0).save(path)

    def read():
        found = dfc.Network.load(path)
        return [*found.weights, *found.biases, *found.feedback, found.activations]

    return read


def trajectory(path, compression="none"):
    """Write a trajectory; its parts are read one by one, and one that is refused leaves the others readable."""
    import dfc_numba as dfc

    created = dfc.Network.create([12, 6, 3], seed=0)
    x = np.random.default_rng(0).normal(size=(4, 12))
    target = dfc.output_target(created, x, np.eye(3)[[0, 1, 2, 0]])
    dfc.simulate(created, x, target, dfc.Controller(steps=30)).save(path, compression=compression)

    def read():
        found = {}
        with dfc.open_trajectories(path) as file:
            records = file[file.phases[0]]
            for name in records.variables:
                found[name] = part(lambda name=name: records.variable(name)[...])
            found["network"] = part(lambda: records[0].recipe().network.weights)
            found["status"], found["seed"] = file.status, file.attributes.get("seed")
        return found

    return read


def compressed(path):
    """Write the same with gzip."""
    return trajectory(path, "gzip")


def part(function):
    """Return what a function returns, or its error, where that is one of ours."""
    try:
        return function()
    except (OSError, ValueError):
        return None


def checkpoint(path):
    """Write a checkpoint of a trainer."""
    from dfc_numba.configuration.config_file import load_config
    from dfc_numba.learning.training import Trainer
    from dfc_numba.runs import checkpoint as checkpoints
    from dfc_numba.runs.experiment import create_network, load_data

    config, _ = load_config(
        "digits", ["training.method=bp", "network.hidden=[4]", "data.options.train_size=40"]
    )
    dataset = load_data(config)
    checkpoints.save(Trainer(create_network(config, dataset), dataset, config), path)

    def read():
        state = checkpoints.load(path).state
        return [*state.network.weights, state.counters.minibatches]

    return read


def arrays():
    x = np.random.default_rng(0).normal(size=(30, 5))
    return {"x_train": x[:20], "y_train": np.arange(20) % 3, "x_test": x[20:], "y_test": np.arange(10) % 3}


def own_h5(path):
    """Write data of one's own, compressed with gzip and a checksum."""
    import h5py

    with h5py.File(path, "w") as file:
        for name, array in arrays().items():
            file.create_dataset(name, data=array, chunks=array.shape, compression="gzip", fletcher32=True)
    return data_reader(path)


def own_npz(path):
    """Write data of one's own as a .npz archive, whose members have checksums."""
    np.savez_compressed(path, **arrays())
    return data_reader(path)


def data_reader(path, **options):
    def read():
        from dfc_numba import data

        found = data.load(path, **options)
        return [found.train.x, found.train.y, found.test.x, found.test.y]

    return read


def exported(path):
    """Write a network as `dfc export` does."""
    import dfc_numba as dfc
    from dfc_numba.runs import trained

    dfc.Network.create([12, 6, 3], seed=0).save(path.with_name("exported.h5"))
    trained.export(path.with_name("exported.h5"), path)

    def read():
        found = trained.import_npz(path)
        return [*found.weights, *found.biases, *found.feedback, found.activations]

    return read


def analysis(path):
    """Write the measurements of a run."""
    from dfc_numba.storage import analysis_file
    from dfc_numba.storage.schema import VariableDescription

    about = VariableDescription(dims=("minibatches",), long_name="an angle", units="degrees")
    course = {"minibatches": (about, np.arange(20)), "angle": (about, np.linspace(0, 90, 20))}
    analysis_file.write(path, course, dimensions=("minibatches",))

    def read():
        return sorted(analysis_file.read_course(path).items())

    return read


def table(path):
    """Write data of one's own as a table."""
    rows = np.random.default_rng(0).normal(size=(30, 3)).round(3)
    lines = [",".join([*map(str, row), "abc"[i % 3]]) for i, row in enumerate(rows)]
    path.write_text("\n".join(["p,q,r,kind", *lines]) + "\n")
    return data_reader(path, target="kind")


def idx(path):
    """Write images as MNIST's are: IDX, in gzip."""
    import gzip
    import struct

    pixels = np.random.default_rng(0).integers(0, 256, (4, 28, 28), dtype=np.uint8)
    path.write_bytes(gzip.compress(struct.pack(">IIII", 0x803, 4, 28, 28) + pixels.tobytes()))

    def read():
        from dfc_numba.data import images

        return images.read_images(path)

    return read


def record(path, files=None):
    """Write a run.json into a new directory."""
    from dfc_numba.runs import run_directory

    facts = {"schema_version": "1.1", "status": "done", "stop_reason": "", "results": {"epochs": 3}}
    facts |= {"earlier_sessions": [], "name": "a", "files": files or {}}
    run_directory.write_record(path.parent, facts)

    def read():
        import json

        return json.dumps(run_directory.read_record(path.parent), sort_keys=True)

    return read


def run_config(path):
    """Write the config.toml of a run, with a run.json that has its seal."""
    from dfc_numba.support import seals

    read = config(path)
    record(path.with_name("run.json"), {path.name: seals.seal_of(path.read_text())})
    return read


def metrics(path):
    """Write the metrics.csv of a run, with a run.json that has its seal."""
    from dfc_numba.runs import run_directory
    from dfc_numba.support import seals

    rows = [f"{epoch},{0.5 / epoch},{1 - 0.1 / epoch},,,,,{epoch * 0.25}" for epoch in range(1, 9)]
    path.write_text("\n".join([",".join(run_directory.METRICS), *rows]) + "\n")
    record(path.with_name("run.json"), {path.name: seals.seal_of(path.read_text(), growing=True)})

    def read():
        return run_directory.read_metrics(path.parent)

    return read


def sweep(path):
    """Write the table of a sweep."""
    from dfc_numba.sweep.sweep_folder import SweepFolder, SweepRun

    runs = [SweepRun(i, f"digits-{i}", "digits", i, (f"training.seed={i}",), 3) for i in range(4)]
    SweepFolder(path.parent, "a", runs, {"digits": "sources/digits.toml"}, (), [], "/home").save()

    def read():
        found = SweepFolder.open(path.parent)
        return [*map(str, found.runs), found.name, found.sources, found.home, found.files]

    return read


def comparison(path):
    """Write the rows of a comparison."""
    from dfc_numba.runs import summary
    from dfc_numba.support import seals

    rows = [f"digits,{seed},done,{epoch},{seed / 7 + epoch}" for seed in range(3) for epoch in range(1, 5)]
    path.write_text("\n".join(["preset,seed,status,epoch,train_loss", *rows]) + "\n")
    seals.write_sums(path.parent, [path.name])

    def read():
        return summary.read_courses(path.parent)

    return read


def config(path):
    """Write a configuration in TOML."""
    from dfc_numba.configuration.config_file import load_config

    path.write_text('[training]\nepochs = 3\nmethod = "bp"\n[network]\nhidden = [20, 20]\n')

    def read():
        return str(load_config(str(path))[0])

    return read


KINDS = {
    "network": (network, "a.h5"), "trajectory": (trajectory, "a.h5"), "compressed": (compressed, "a.h5"),
    "checkpoint": (checkpoint, "checkpoint.h5"), "own_h5": (own_h5, "own.h5"), "own_npz": (own_npz, "own.npz"),
    "idx": (idx, "images.gz"), "record": (record, "run.json"), "config": (config, "a.toml"),
    "exported": (exported, "weights.npz"), "csv": (table, "table.csv"), "analysis": (analysis, "analysis.h5"),
    "run_config": (run_config, "config.toml"), "metrics": (metrics, "metrics.csv"), "sweep": (sweep, "sweep.json"),
    "comparison": (comparison, "comparison.csv"),
}  # fmt: skip


def flipped(whole, random):
    """Return the bytes of a file with one bit changed."""
    place = int(random.integers(0, 8 * len(whole)))
    changed = bytearray(whole)
    changed[place // 8] ^= 1 << place % 8
    return bytes(changed)


def mutated(whole, random):
    """Return the bytes of a file after a structural change."""
    size = len(whole)
    start, length = int(random.integers(0, size)), int(random.integers(1, max(2, size // 4)))
    block, head, tail = whole[start : start + length], whole[:start], whole[start + length :]
    noise = random.integers(0, 256, len(block), dtype=np.uint8).tobytes()
    number = (b"\xff" * 8, b"\x7f" + b"\xff" * 7, bytes(8), b"\1" + bytes(7))[int(random.integers(0, 4))]
    aligned = start // 8 * 8
    choices = (
        head, head + bytes(len(block)) + tail, head + noise + tail, head + tail, head + block + block + tail,
        whole[:aligned] + number + whole[aligned + 8 :], tail + block + head, whole + noise,
    )  # fmt: skip
    return choices[int(random.integers(0, len(choices)))]


def digest(found):
    """Return the digest of what was read, as a text."""
    return hashlib.sha256(pickle.dumps(found)).hexdigest()


def differs(found, sound):
    """Return whether a readable part is not what it was; of a trajectory, parts may be refused."""
    if isinstance(sound, dict) and isinstance(found, dict):
        shared = [name for name in sound if found.get(name) is not None]
        return any(
            digest(found[name]) != digest(sound[name]) and found[name] != "(damaged)" for name in shared
        )
    return digest(found) != digest(sound)


class Readers:
    """Processes, one at a time, that read one damaged file after the other; one that hangs or dies is replaced.

    A try ends after `SECONDS` of processor time, or `PATIENCE` seconds: the machine may have other work.
    """

    def __init__(self, read, sound, path):
        self.arguments, self.child = (read, sound, path), None

    def outcome(self):
        """Have the file read, and return the outcome."""
        if self.child is None or self.tries == TRIES:
            self._stop()
            self._start()
        self.tries += 1
        before, end = self._processor_time(), time.monotonic() + PATIENCE
        os.write(self.order, b"r")
        while not select.select([self.answer], [], [], 0.5)[0]:
            if self._processor_time() - before > SECONDS or time.monotonic() > end:
                self._stop()
                return "hang"
        code = os.read(self.answer, 1)
        if code:
            return CODES[code[0]]
        status = self._stop()
        return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else INTERNAL

    def _start(self):
        (orders, self.order), (self.answer, answers) = os.pipe(), os.pipe()
        self.tries, self.child = 0, os.fork()
        if self.child:
            os.close(orders)
            os.close(answers)
            return
        os.close(self.order)
        os.close(self.answer)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        while os.read(orders, 1):
            os.write(answers, bytes([attempt(*self.arguments)]))
        os._exit(0)

    def close(self):
        """End the process."""
        self._stop()

    def _stop(self):
        """End the process, and return its status."""
        if self.child is None:
            return 0
        child, self.child = self.child, None
        os.close(self.order)
        os.close(self.answer)
        ended, status = os.waitpid(child, os.WNOHANG)
        for _ in range(100):
            if ended:
                return status
            time.sleep(0.01)
            ended, status = os.waitpid(child, os.WNOHANG)
        os.kill(child, 9)
        return os.waitpid(child, 0)[1]

    def _processor_time(self):
        """Return the seconds that the process has computed."""
        fields = Path(f"/proc/{self.child}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def attempt(read, sound, path):
    """Return the exit code of an attempt to read."""
    if not os.environ.get("FUZZ_SHOW"):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            other = differs(read(), sound)
        return 2 if any(str(path) in str(warning.message) for warning in told) else int(other)
    except (OSError, ValueError, MemoryError) as error:
        return 2 if path.name in str(error) or str(path.parent) in str(error) else 3
    except BaseException as error:  # noqa: BLE001 (that is what is looked for)
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 3


def campaign(kind, flips, mutants, seed, folder):
    """Return (`Counter` of the outcomes, sentences about those that are not allowed) of one kind of file."""
    write, name = KINDS[kind]
    path = Path(folder) / kind / name
    path.parent.mkdir(parents=True)
    read = write(path)
    whole, sound, random = path.read_bytes(), read(), np.random.default_rng([seed, list(KINDS).index(kind)])
    outcomes, failures, readers = Counter(), [], Readers(read, sound, path)
    for number in range(flips + mutants):
        changed = (flipped if number < flips else mutated)(whole, random)
        path.write_bytes(changed)
        found = readers.outcome()
        outcomes[found] += 1
        allowed = (SAME, REFUSED, *([OTHER] if kind in UNSEALED else []))
        if found not in allowed:
            kept = Path(folder) / f"{kind}-{number}{path.suffix}"
            shutil.copy(path, kept)
            failures.append(f"{kind} {number}: {found}")
    readers.close()
    return outcomes, failures


def main(arguments=None):
    """Print the counts and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--flips", type=int, default=2000)
    parser.add_argument("--mutants", type=int, default=500)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    folder, bad, kinds = tempfile.mkdtemp(prefix="fuzz-"), [], options.kinds.split(",")
    for write, name in (KINDS[kind] for kind in kinds):  # loads what the processes would load each
        write(Path(tempfile.mkdtemp(dir=folder)) / name)()
    for kind in kinds:
        outcomes, failures = campaign(kind, options.flips, options.mutants, options.seed, folder)
        print(
            f"{kind:<12}",
            ", ".join(f"{name} {count}" for name, count in sorted(outcomes.items())),
            flush=True,
        )
        bad += failures
    for failure in bad:
        print("not allowed:", failure)
    if bad:
        print("kept in", folder)
    else:
        shutil.rmtree(folder)
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
