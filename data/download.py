"""Download one file from the first mirror that delivers it intact; leave nothing else in the folder."""

import contextlib
import hashlib
import http.client
import os
import tempfile
import urllib.request

from dfc_numba.data.dataset import DataUnavailableError
from dfc_numba.support.foreign import sha256_of

TIMEOUT = 30  # seconds without an answer
CHUNK = 1 << 16


def fetch(name, sha256, mirrors, folder):
    """Return the path of a file in `folder`; download it unless it is there with the right checksum.

    It is written to a temporary file in the same folder, checked, and moved to its name only then, so that failures,
    interruptions and several processes at once leave no partial file.

    Args:
        name: file name, appended to each mirror's address.
        sha256: expected SHA-256 checksum, hexadecimal.
        mirrors: base addresses that end in a slash, tried in turn.
        folder: `pathlib.Path` of the folder; made if it is missing.

    Raises:
        DataUnavailableError: when no mirror delivers it, with the reason for each.
    """
    path, failures = folder / name, []
    if path.exists() and sha256_of(path) == sha256:
        return path
    for mirror in mirrors:
        try:
            _download(mirror + name, sha256, path)
            return path
        except (OSError, ValueError, http.client.HTTPException) as error:
            failures.append(f"  {mirror}: {error}")
    damaged = " (the file there has the wrong checksum)" if path.exists() else ""
    raise DataUnavailableError("\n".join([f"could not download {name} to {folder}{damaged}:", *failures]))


def _download(address, sha256, path):
    """Download to `path`; a ValueError for other content than expected."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file, urllib.request.urlopen(address, timeout=TIMEOUT) as answer:
            found = _copy(answer, file, path.name)
        if found != sha256:
            raise ValueError(f"the SHA-256 hash of what it sent is {found}, not {sha256}")
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _copy(answer, file, name):
    """Copy an answer into a file and return its SHA-256; shows how far it has come, where standard error is a terminal."""
    total, length = hashlib.sha256(), answer.length
    with _progress(name, length) as advance:
        while piece := answer.read(CHUNK):
            file.write(piece)
            total.update(piece)
            advance(len(piece))
    if answer.length:
        raise ValueError(f"incomplete: {answer.length} of {length} bytes are missing")
    return total.hexdigest()


@contextlib.contextmanager
def _progress(name, length):
    """Yield a function of the number of bytes received, which moves a bar on standard error if that is a terminal."""
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda count: None
        return
    with Progress(*Progress.get_default_columns(), DownloadColumn(), console=console) as bar:
        task = bar.add_task(name, total=length)
        yield lambda count: bar.advance(task, count)
