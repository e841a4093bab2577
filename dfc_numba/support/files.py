"""Files that are never half written: a new version appears under its name in one step, or not at all."""

import ctypes
import errno
import os
import secrets
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

from dfc_numba.errors import UnusableFileError

LONGEST_NAME = 200  # bytes of a name that leave room for what a temporary one has beside it
PROBE_BYTES = 2**20
UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)


@contextmanager
def replacing(path, keep=None, *, follow=False):
    """Yield the path of a temporary file in the same directory, which replaces `path` at the end.

    The body writes the file; it is forced to disk and then renamed. If the body raises, the temporary file is
    removed and `path` stays as it was. An OSError names the file.

    Args:
        keep: name in the same directory that the older file, if there is one, gets.
        follow: where `path` is a symbolic link, write what it leads to; else the link is replaced.
    """
    path = Path(path).expanduser()
    path = Path(os.path.realpath(path)) if follow else path
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path} cannot be written: there is no folder {path.parent}")
    name = path.name if len(os.fsencode(path.name)) <= LONGEST_NAME else path.name[: LONGEST_NAME // 4]
    temporary = path.with_name(f".{name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        publish(temporary, path, keep)
    except OSError as error:
        if error.errno and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def publish(temporary, path, keep=None):
    """Force a file to disk, and then give it the name `path` in the same directory, in one step; see `replacing`."""
    path = Path(path)
    force_to_disk(temporary)
    if keep is not None and path.exists():
        os.replace(path, path.with_name(keep))
    os.replace(temporary, path)
    force_to_disk(path.parent)


def remove_leftovers(directory, names):
    """Remove the temporary files that a killed process has left of these files."""
    for name in names:
        for file in Path(directory).glob(f".{name}.*.tmp"):
            file.unlink(missing_ok=True)


def require_room(folder, count):
    """Ask the file system of a folder for `count` bytes, and give them back; quotas count, unlike in what `df` says.

    Where space cannot be asked for (NFS before version 4.2), a first piece is written.

    Raises:
        OSError: there is no room, or not within the quota.
    """
    with tempfile.TemporaryFile(dir=folder, prefix=".room.") as file:
        allocate = getattr(ctypes.CDLL(None, use_errno=True), "fallocate64", None)
        if allocate is not None:  # of the C library: that of Python writes to every block where it cannot ask
            if allocate(file.fileno(), 0, ctypes.c_int64(0), ctypes.c_int64(count)) == 0:
                return
            if (number := ctypes.get_errno()) not in UNSUPPORTED:
                raise OSError(number, os.strerror(number), str(folder))
        file.write(bytes(min(count, PROBE_BYTES)))
        file.flush()
        os.fsync(file.fileno())


def write_text(path, text):
    """Write a text file atomically; parts of file names that are not UTF-8 get backslashes."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def force_to_disk(path):
    """Make sure that a file, or the names in a directory, survive a loss of power, as far as the file system can.

    Some (CIFS, FUSE) refuse that for directories, or altogether; what is written is as safe there as it gets.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        if os.path.isdir(path):  # one may write into a directory that one may not read
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not os.path.isdir(path) and error.errno not in UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)


def refuse_links(directory, names):
    """Refuse a directory of a run in which one of these names is a symbolic link: what it leads to is not of the run.

    Raises:
        UnusableFileError: with the name.
    """
    for name in names:
        path = Path(directory) / name
        if path.is_symlink():
            raise UnusableFileError(
                f"{path} is a symbolic link, which is not followed within a run; put the file itself there (the directory "
                "of the run may be a link)"
            )


def release_memory(path):
    """Let the system reclaim the page cache of a file that is on the disk and not read for a while."""
    with suppress(AttributeError, OSError):  # not every system can; nothing but speed depends on it
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
