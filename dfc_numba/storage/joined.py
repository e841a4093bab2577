"""One trajectory file of several: it grows beside them or from them, and gets its name when it is complete."""

import secrets
from contextlib import suppress
from pathlib import Path

from dfc_numba.storage import schema
from dfc_numba.storage.writer import TrajectoryWriter
from dfc_numba.support import hdf5
from dfc_numba.support.files import force_to_disk, publish, release_memory


class Joined:
    """A trajectory file that gets the records of others, with the same bits in the same order.

    It takes little memory, whatever the size of the files. As a context manager it goes away unless it was published.

    Args:
        path: its name once it is published; an older file of this name is replaced.
    """

    def __init__(self, path):
        self._path = Path(path)
        self._temporary = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}.tmp")
        self._writer = None

    def writer(self, **options):
        """The `TrajectoryWriter` of the file, which begins with these options."""
        if self._writer is None:
            self._writer = TrajectoryWriter(self._temporary, **options)
        return self._writer

    def add(self, file, before=None):
        """Add the records of a file.

        Args:
            before: leave out the minibatches from this running number on.

        Raises:
            OSError: if the file is damaged, or this one cannot be written.
        """
        with opened(file) as source:
            facts = dict(source.attrs)
            self.writer(attributes=facts, compression=facts["compression"]).extend(source, before=before)
        self.settle()
        release_memory(file)

    def settle(self):
        """Bring what there is to the disk, rather than all at the end, and out of the memory."""
        if self._writer is not None:
            force_to_disk(self._temporary)
            release_memory(self._temporary)

    def publish(self, status, **attributes):
        """Give it its name, a status, and values of attributes; those that it has are the ones of the first file."""
        self._writer.close(status, **attributes)
        publish(self._temporary, self._path)

    def discard(self):
        """Remove it, unless it is published."""
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close("failed")
            self._temporary.unlink(missing_ok=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.discard()


def opened(path):
    """A trajectory file, opened for reading within a `with` block."""
    return hdf5.opened(path, schema.SCHEMA, schema.SCHEMA_VERSION, schema.KIND)
