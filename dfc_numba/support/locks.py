"""Locks on run directories that also hold on the shared file systems of clusters.

A lock is a small file that says who holds it: host, process, and the job of the cluster's scheduler. Exclusion is the
system's (`flock`), which ends with the process. Where the file system has no such locks (NFS without a lock service,
some FUSE and HPC file systems), a second file stands for it, made with a hard link, which is atomic there too. A holder
that was killed leaves its files behind; it is recognised as dead by its process number on the same host, by the
scheduler, or because its file is no longer touched, and the lock passes on.
"""

import errno
import fcntl
import json
import os
import secrets
import shutil
import socket
import stat
import subprocess
import threading
import time
import weakref
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from dfc_numba.support.jobs import current_job

BEAT = 10.0  # seconds after which a holder touches its file
PATIENCE = 3.5  # beats that a silent holder on another host is waited for before it counts as dead
SQUEUE_SECONDS = 20.0
ASK_EVERY = 1.0  # seconds that an answer of the scheduler is taken for the present state
NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, 524}  # 524: the kernel's own ENOTSUPP
NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, 524}
HELD_SUFFIX = ".held"
_answers = {}  # of the scheduler, (time, whether the job has ended), by job
WITHOUT_LINKS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class Holder:
    """Who holds a lock.

    Attributes:
        host, process: host name and process number.
        started: when the process started, in the units of its system; it tells a process from a later one of the same number.
        boot: identifies one uptime of the host.
        job, restart: job of the scheduler, such as "17_3", and how often it was started again; "" and 0 without.
    """

    host: str
    process: int
    started: str = ""
    boot: str = ""
    job: str = ""
    restart: int = 0

    def __str__(self):
        return f"process {self.process} on {self.host}" + (f", job {self.job}" if self.job else "")

    @classmethod
    def here(cls):
        """Return the holder that this process is."""
        job = current_job()
        number, restart = (job["id"], job["restarts"]) if job else ("", 0)
        return cls(socket.gethostname(), os.getpid(), _start_of(os.getpid()), _boot(), number, restart)

    @classmethod
    def parse(cls, text):
        """Return the holder that a lock file names, or None where it names none."""
        try:
            values = json.loads(text)
            return cls(**{key: values[key] for key in cls.__annotations__})
        except (ValueError, TypeError, KeyError):
            return None


class Lock:
    """A lock on a file, which is created where it does not exist; it ends with `release`, or with the process.

    Args:
        path: the lock file; a symbolic link is refused, never followed.
        wait: seconds to wait for another holder to let go.

    Raises:
        BlockingIOError: another process, or another `Lock` of this one, holds it; the message says which.
        OSError: the file is a symbolic link or no ordinary file, or cannot be written to.
    """

    def __init__(self, path, *, wait=0.0):
        end = time.monotonic() + wait
        while True:
            try:
                handle, lease = _acquire(Path(path))
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise
                time.sleep(0.2)
        _note(handle, Holder.here())
        ended = threading.Event()
        files = (handle, None if lease is None else str(lease))
        threading.Thread(target=_touch, args=(*files, ended), name="lock", daemon=True).start()
        self.release = weakref.finalize(self, _release, *files, ended, os.getpid())


def holder_of(path):
    """Return the `Holder` of a lock file that is still alive as far as can be seen at once, or None."""
    path = Path(path)
    holder = Holder.parse(_content(path))
    if holder is None:
        return None
    dead = _known_dead(holder)
    if dead is None:
        with suppress(OSError):
            dead = time.time() - path.stat(follow_symlinks=False).st_mtime > 2 * PATIENCE * BEAT
    return None if dead in (True, None) else holder


def try_lock(handle):
    """Return whether no other process holds the lock of an open file; None on a file system without locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in NO_LOCKS:
            return None
        raise
    return True


def _acquire(path):
    """Return (handle of the locked file, the file that stands for the lock or None); raise BlockingIOError if it is held."""
    handle = _open(path)
    lease = None
    try:
        granted = try_lock(handle)
        if granted is False:
            raise BlockingIOError(_described(_content(path)))
        if granted is None:
            lease = path.with_name(path.name + HELD_SUFFIX)
            _take(lease)
        holder = Holder.parse(_content(path))
        # flock of some shared file systems holds on each host by itself: another host is asked after, too
        if holder is not None and not _is_dead(holder, path):
            raise BlockingIOError(str(holder))
        return handle, lease
    except BaseException:
        if lease is not None and _owns(lease):
            lease.unlink(missing_ok=True)
        os.close(handle)
        raise


def _open(path):
    try:
        handle = os.open(path, WITHOUT_LINKS | os.O_CREAT, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(
                errno.ELOOP, f"{path.name} is a symbolic link, which is not followed; remove it"
            ) from None
        if error.errno in (errno.ENXIO, errno.EISDIR):
            raise OSError(error.errno, f"{path.name} is not an ordinary file; remove it") from None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, f"{path.name} is not an ordinary file; remove it")
    return handle


def _take(lease):
    """Create the file that stands for the lock; take it over from a dead holder."""
    while True:
        if _create(lease):
            return
        text = _content(lease)
        holder = Holder.parse(text)
        if not (_silent(lease) if holder is None else _is_dead(holder, lease)):
            raise BlockingIOError(_described(text))
        aside = lease.with_name(f"{lease.name}.{secrets.token_hex(4)}.tmp")
        with suppress(FileNotFoundError):
            os.rename(lease, aside)
            if _content(aside) != text:  # another process was faster, and this is its file
                with suppress(OSError):
                    os.link(aside, lease)
            aside.unlink()


def _create(lease):
    """Return whether the file could be created, complete from the start; False where it exists."""
    temporary = lease.with_name(f"{lease.name}.{secrets.token_hex(4)}.tmp")
    try:
        _write_new(temporary)
        os.link(temporary, lease)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
    finally:
        temporary.unlink(missing_ok=True)
    try:
        _write_new(lease)
        return True
    except FileExistsError:
        return False


def _write_new(path):
    handle = os.open(path, WITHOUT_LINKS | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        os.write(handle, _as_text(Holder.here()))
    finally:
        os.close(handle)


def _owns(lease):
    holder = Holder.parse(_content(lease))
    return holder is not None and (holder.host, holder.process) == (socket.gethostname(), os.getpid())


def _as_text(holder):
    return (json.dumps(asdict(holder)) + "\n").encode()


def _note(handle, holder):
    os.ftruncate(handle, 0)
    os.pwrite(handle, _as_text(holder), 0)


def _content(path):
    """Return the text of a lock file; "" where there is none to read."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(handle, 2000).decode(errors="replace").strip()
    except OSError:
        return ""
    finally:
        os.close(handle)


def _described(text):
    holder = Holder.parse(text)
    return str(holder) if holder else "another process"


def _touch(handle, lease, ended):
    """Show every few seconds that the holder lives."""
    while not ended.wait(BEAT):
        with suppress(OSError):
            os.utime(handle)
            if lease is not None:
                os.utime(lease, follow_symlinks=False)


def _release(handle, lease, ended, process):
    if process != os.getpid():  # a fork of the holder
        return
    ended.set()
    with suppress(OSError):
        os.ftruncate(handle, 0)
    with suppress(OSError):
        if lease is not None and _owns(Path(lease)):
            os.unlink(lease)
    os.close(handle)


def _is_dead(holder, path):
    dead = _known_dead(holder)
    return _silent(path) if dead is None else dead


def _known_dead(holder):
    """Return whether a holder is dead; None where neither this host nor the scheduler knows."""
    here = Holder.here()
    if (holder.host, holder.boot) == (here.host, here.boot):
        return not holder.started or _start_of(holder.process) != holder.started
    if holder.job and holder.job == here.job:
        return True  # an earlier start of this very job, which the scheduler has ended
    return _job_ended(holder.job) if holder.job else None


def _job_ended(job):
    """Return whether a job of SLURM has ended; None where SLURM does not answer. The last answer serves for `ASK_EVERY`."""
    asked, answer = _answers.get(job, (float("-inf"), None))
    if time.monotonic() >= asked + ASK_EVERY:
        answer = _ask_scheduler(job)
        _answers[job] = time.monotonic(), answer
    return answer


def _ask_scheduler(job):
    if shutil.which("squeue") is None:
        return None
    command = ["squeue", "-h", "-j", job, "-o", "%T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SQUEUE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return True if "Invalid job id" in done.stderr else None
    return not {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING"} & set(done.stdout.split())


def _silent(path):
    """Return whether a file stays untouched while we wait; clocks of hosts differ, so only changes count."""
    first = _touched(path)
    end = time.monotonic() + PATIENCE * BEAT
    while time.monotonic() < end:
        time.sleep(min(1.0, BEAT / 4))
        if _touched(path) != first:
            return False
    return True


def _touched(path):
    """Return when a file was touched, according to the file server (opening queries it again)."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.fstat(handle).st_mtime_ns
    finally:
        os.close(handle)


def _start_of(process):
    """Return when a process of this host started, as the system counts; "" where it does not run."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace")
        fields = text.rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        pass
    if os.path.isdir("/proc/self"):
        return ""
    try:
        os.kill(process, 0)
    except PermissionError:
        pass
    except OSError:
        return ""
    return "running"


def _boot():
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
