"""The trajectory files of a run directory: closed segments while it runs, one file when it has ended well.

trajectories/000000.h5          closed segments, in order
trajectories/000001.h5.part     being written; what a killed process left of it is not to be trusted
trajectories.h5                 the segments 0 .. `segments` - 1 (an attribute) in one file
"""

import os
import re
from pathlib import Path

import numpy as np

from dfc_numba import hdf5
from dfc_numba.files import publish, replacing
from dfc_numba.storage import schema
from dfc_numba.storage.writer import TrajectoryWriter

FOLDER, COMPACTED, PART = "trajectories", "trajectories.h5", ".part"
SEGMENT = re.compile(r"(\d{6,})\.h5")


def find(path):
    """(files, notes): the trajectory files that a path stands for, in order, and what is left aside.

    Args:
        path: a file, a run directory, or its folder of segments.

    Raises:
        OSError: if there is nothing. ValueError: for a file that is not closed.
    """
    path = Path(path)
    if path.is_dir():
        return _find_in_directory(path)
    if path.suffix == PART:
        raise ValueError(
            f"{path} was never closed: the process that wrote it goes on, or was killed; what it holds is not to be trusted"
        )
    return [path], []


def _find_in_directory(path):
    run = path.parent if path.name == FOLDER else path
    folder = run / FOLDER if (run / FOLDER).is_dir() else path
    segments = numbered(folder)
    compacted, first = [], 0
    if (run / COMPACTED).is_file():
        compacted, first = [run / COMPACTED], _next_number(run / COMPACTED)
    notes = [f"{part} is left aside: it was never closed" for part in sorted(folder.glob(f"*{PART}"))]
    files = compacted + [file for number, file in segments.items() if number >= first]
    if not files:
        raise FileNotFoundError(
            f"{path} holds no trajectories: neither {COMPACTED} nor closed segments in {FOLDER}/"
        )
    missing = sorted(set(range(first, max(segments, default=-1) + 1)) - set(segments))
    notes += [f"{folder} lacks the segment {number:06d}.h5" for number in missing]
    return files, notes


def numbered(folder):
    """The closed segments in a folder by their numbers, in order."""
    matches = ((SEGMENT.fullmatch(file.name), file) for file in sorted(Path(folder).glob("*.h5")))
    found = {int(match[1]): file for match, file in matches if match}
    return dict(sorted(found.items()))


def _next_number(compacted):
    with opened(compacted) as file:
        return int(file.attrs.get("segments", 0))


def opened(path):
    """A trajectory file, opened for reading within a `with` block."""
    return hdf5.opened(path, schema.SCHEMA, schema.SCHEMA_VERSION, schema.KIND)


class SegmentWriter:
    """Writes the trajectories of a run, segment by segment; a context manager like `TrajectoryWriter`.

    Args:
        directory: the run directory. Segments that it has are kept, and new ones come after them.
        options: attributes, compression and dtype of a `TrajectoryWriter`.
    """

    def __init__(self, directory, **options):
        self._run, self._options = Path(directory), options
        self._folder = self._run / FOLDER
        self._writer = None

    def append(self, recipe=None, trajectory=None, update=None):
        """Add a record, see `TrajectoryWriter.append`."""
        if self._writer is None:
            self._writer = self._next()
        self._writer.append(recipe, trajectory, update)

    def close_segment(self, status="closed"):
        """Close the segment that is being written, if there is one, for good: from now on nothing can happen to it."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close(status)
            publish(writer.path, writer.path.with_suffix(""))

    def close(self, status):
        """Close the last segment; a run that is complete gets one file for all."""
        self.close_segment(status)
        if status == "complete" and (self._folder.is_dir() or (self._run / COMPACTED).exists()):
            compact(self._run, status)

    def _next(self):
        self._folder.mkdir(exist_ok=True)
        first = _next_number(self._run / COMPACTED) if (self._run / COMPACTED).exists() else 0
        number = max([first, *(number + 1 for number in numbered(self._folder))])
        return TrajectoryWriter(self._folder / f"{number:06d}.h5{PART}", **self._options)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.close("complete" if kind is None else "failed")


def compact(directory, status="complete"):
    """Put all closed segments of a run directory into one file, record by record as they are; then remove them.

    The memory that it takes does not depend on the size of the files. Whenever it is interrupted, the directory holds
    everything once.

    Raises:
        OSError: if a segment is damaged; everything stays as it is.
    """
    run = Path(directory)
    files, _ = find(run)
    last = max(numbered(run / FOLDER), default=-1)
    with replacing(run / COMPACTED) as temporary:
        merge(files, temporary, status=status, segments=last + 1)
    remove(run)


def remove(run):
    """Remove the folder of segments."""
    for file in (run / FOLDER).glob("*"):
        file.unlink()
    (run / FOLDER).rmdir()


def merge(files, path, *, status, before=None, **attributes):
    """Write the records of several trajectory files into a new one.

    Args:
        status, attributes: of the new file; the other attributes are those of the first.
        before: leave out the minibatches from this running number on.
    """
    with opened(files[0]) as first:
        kept = {
            key: value
            for key, value in first.attrs.items()
            if key not in ("schema", "schema_version", "status")
        }
    writer = TrajectoryWriter(path, attributes={**kept, **attributes}, compression=kept["compression"])
    try:
        for file in files:
            with opened(file) as source:
                writer.extend(source, before=before)
    finally:
        writer.close(status)


def keep_before(directory, number):
    """Forget what a run directory has from a minibatch on, by its running number, and what was being written.

    This is how a resumed run starts: it does these minibatches again.
    """
    folder = Path(directory) / FOLDER
    for part in folder.glob(f"*{PART}"):
        part.unlink()
    for file in reversed(numbered(folder).values()):
        with opened(file) as source:
            numbers = np.concatenate([group["number"][...] for group in schema.phase_groups(source).values()])
        if (numbers < number).all():
            break
        if (numbers >= number).all():
            os.unlink(file)
        else:
            with replacing(file) as temporary:
                merge([file], temporary, status="closed", before=number)
