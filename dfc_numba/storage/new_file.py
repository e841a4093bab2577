"""Writing an HDF5 file of any size, so that a full disk is an error like any other."""

import io

FORMAT = "v110", "v110"  # of HDF5 1.10: it has checksums on all metadata
CACHED_BYTES = 2**16  # per data set: larger chunks are written at once


class NewFile:
    """An HDF5 file that is being written. Once the disk is full, writing goes nowhere, and `check` raises the error.

    Attributes:
        file: the `h5py.File`.
    """

    def __init__(self, path):
        import h5py

        self._disk = _Disk(path, "x+")
        self.file = h5py.File(self._disk, "w", libver=FORMAT, rdcc_nbytes=CACHED_BYTES)

    def check(self):
        """Raise the error of the first write that failed, if one did."""
        if self._disk.error is not None:
            raise self._disk.error

    def close(self):
        """Close the file. Whether it is complete, `check` tells."""
        self.file.close()
        self._disk.close()


class _Disk(io.FileIO):
    """The file below. HDF5 crashes sooner or later after a failed write, so it never hears of one."""

    error = None

    def write(self, data):
        size, done = len(data), 0
        while self.error is None and done < size:
            done += self._attempt(super().write, data[done:]) or 0
        return size

    def truncate(self, size=None):
        self._attempt(super().truncate, size)
        return size

    def readinto(self, buffer):
        count = super().readinto(buffer)
        if self.error is not None:
            buffer[count:] = bytes(len(buffer) - count)
            return len(buffer)
        return count

    def _attempt(self, function, argument):
        try:
            return function(argument)
        except OSError as error:
            self.error = OSError(error.errno, error.strerror, str(self.name))
