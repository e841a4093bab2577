"""Locks: who holds one, dead holders, file systems without locks, and links that are not followed."""

import errno
import fcntl
import json
import multiprocessing
import os
import socket
import time

import pytest

from dfc_numba.support import locks
from dfc_numba.support.locks import Holder, Lock, holder_of


@pytest.fixture(params=[None, errno.ENOLCK, errno.EOPNOTSUPP, 524], ids=["flock", "37", "95", "524"])
def path(request, tmp_path, monkeypatch):
    """A lock file, on a file system whose flock works or answers with an error."""
    if request.param:

        def refuse(*_):
            raise OSError(request.param, os.strerror(request.param))

        monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(locks, "BEAT", 0.05)
    return tmp_path / ".lock"


def write_holder(path, **changes):
    """Leave what a holder has written that did not let go."""
    text = json.dumps({**vars(Holder.here()), **changes})
    path.write_text(text)
    path.with_name(path.name + ".held").write_text(text)


def test_a_lock_names_its_holder_and_ends_with_release(path):
    lock = Lock(path)
    assert holder_of(path).process == os.getpid()
    with pytest.raises(BlockingIOError, match=rf"process {os.getpid()} on {socket.gethostname()}"):
        Lock(path)
    lock.release()
    assert holder_of(path) is None and [file.name for file in path.parent.iterdir()] == [".lock"]
    Lock(path).release()


def test_a_dead_process_of_this_host_holds_nothing(path):
    process = multiprocessing.get_context("spawn").Process(target=int)
    process.start()
    process.join()
    write_holder(path, process=process.pid)
    assert holder_of(path) is None
    Lock(path).release()


def test_a_later_process_of_the_same_number_is_another_one(path):
    write_holder(path, started="1")
    Lock(path).release()


@pytest.mark.timing
def test_a_holder_on_another_host_counts_until_it_is_silent(path):
    write_holder(path, host="elsewhere")
    start = time.monotonic()
    Lock(path).release()
    assert time.monotonic() - start > locks.PATIENCE * locks.BEAT


@pytest.mark.timing
def test_a_holder_on_another_host_that_shows_life_is_respected(path):
    write_holder(path, host="elsewhere", job="17_3")
    beating = multiprocessing.get_context("fork").Process(target=_beat, args=(path,))
    beating.start()
    try:
        with pytest.raises(BlockingIOError, match=r"process \d+ on elsewhere, job 17_3"):
            Lock(path)
    finally:
        beating.kill()
        beating.join()
    assert json.loads(path.read_text())["host"] == "elsewhere"


def _beat(path):
    while True:
        for file in (path, path.with_name(path.name + ".held")):
            os.utime(file)
        time.sleep(0.01)


@pytest.mark.timing
def test_an_earlier_start_of_the_same_job_is_over(path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "20")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "17")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    write_holder(path, host="elsewhere", job="17_3")
    start = time.monotonic()
    Lock(path).release()
    assert time.monotonic() - start < locks.PATIENCE * locks.BEAT


@pytest.mark.timing
def test_a_lock_is_waited_for(path):
    lock = Lock(path)
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(0.3,))
    process.start()
    with pytest.raises(BlockingIOError):
        Lock(path, wait=0.3)
    process.join()
    lock.release()
    Lock(path, wait=0.3).release()


@pytest.mark.parametrize("name", [".lock", ".lock.held"])
def test_a_symbolic_link_is_never_followed(path, name):
    victim = path.parent / "victim"
    victim.write_text("precious")
    path.with_name(name).symlink_to(victim)
    try:
        Lock(path).release()
    except (OSError, BlockingIOError) as error:
        assert "symbolic link" in str(error) or "another process" in str(error)
    assert victim.read_text() == "precious"


def test_a_named_pipe_is_refused_and_nothing_hangs(path):
    os.mkfifo(path)
    with pytest.raises(OSError, match="not an ordinary file"):
        Lock(path)


@pytest.mark.timing
def test_of_many_processes_one_gets_the_lock_of_a_dead_holder(path):
    write_holder(path, started="1")
    context = multiprocessing.get_context("fork")
    start, found = context.Event(), context.Queue()
    processes = [context.Process(target=_compete, args=(path, start, found)) for _ in range(6)]
    for process in processes:
        process.start()
    start.set()
    results = [found.get(timeout=20) for _ in processes]
    for process in processes:
        process.join()
    assert sum(results) == 1


def _compete(path, start, found):
    start.wait()
    try:
        lock = Lock(path)
    except BlockingIOError:
        found.put(False)
        time.sleep(0.5)
        os._exit(0)
    found.put(True)
    time.sleep(0.5)
    lock.release()
