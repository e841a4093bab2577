"""Files that are never half written: a new version appears under its name in one step, or not at all."""

import os
import secrets
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path):
    """Yields the path of a temporary file in the same directory, which takes the place of `path` at the end.

    The body writes the file; it is forced to disk and then renamed. If the body raises, the temporary file is
    removed and `path` stays as it was.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path} cannot be written: there is no folder {path.parent}")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def publish(temporary, path):
    """Force a file to disk, and then give it the name `path` in the same directory, in one step."""
    _force_to_disk(temporary)
    os.replace(temporary, path)
    _force_to_disk(Path(path).parent)


def write_text(path, text):
    """Writes a text file as a whole."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _force_to_disk(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
