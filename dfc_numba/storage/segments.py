"""The trajectory files of a run directory: closed segments while it runs, one file when it has ended well.

trajectories/000000.h5          closed segments, in order
trajectories/000001.h5.part     being written; what a killed process left of it is unreliable
trajectories.h5                 the segments 0 .. `segments` - 1 (an attribute) in one file
"""

import re
from contextlib import suppress
from pathlib import Path

import numpy as np

from dfc_numba.storage import schema
from dfc_numba.storage.writer import Joined, TrajectoryWriter, opened
from dfc_numba.support import foreign
from dfc_numba.support.files import force_to_disk, publish, refuse_links, release_memory

FOLDER, COMPACTED, PART = "trajectories", "trajectories.h5", ".part"
SEGMENT = re.compile(r"(\d{6,})\.h5")


def find(path):
    """Return (files, notes): the trajectory files that a path stands for, in order, and what is left aside.

    Args:
        path: a file, a run directory, or its folder of segments.

    Raises:
        OSError: if there is nothing. ValueError: for a file that is not closed.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return _find_in_directory(path)
    if path.suffix == PART:
        raise ValueError(
            f"{path} was never closed: the process that wrote it is still running, or was killed; its contents are unreliable"
        )
    return [path], []


def _find_in_directory(path):
    run = path.parent if path.name == FOLDER else path
    refuse_links(run, (FOLDER, COMPACTED))
    folder = run / FOLDER if (run / FOLDER).is_dir() else path
    segments, compacted = numbered(folder), run / COMPACTED
    refuse_links(folder, [file.name for file in segments.values()])
    first = _next_number(compacted)
    files = [compacted] if compacted.is_file() else []
    files += [file for number, file in segments.items() if number >= first]
    if not files:
        raise FileNotFoundError(
            f"{path} holds no trajectories: neither {COMPACTED} nor closed segments in {FOLDER}/; "
            "a run has them if it is trained with --log"
        )
    notes = [f"{part} is left aside: it was never closed" for part in sorted(folder.glob(f"*{PART}"))]
    missing = sorted(set(range(first, max(segments, default=-1))) - set(segments))
    return files, notes + [f"{folder} lacks the segment {number:06d}.h5" for number in missing]


def numbered(folder):
    """Return the closed segments in a folder by their numbers, in order."""
    matches = ((SEGMENT.fullmatch(file.name), file) for file in Path(folder).glob("*.h5"))
    return dict(sorted((int(match[1]), file) for match, file in matches if match))


def _next_number(compacted):
    """Return the number of the first segment that is not in the compacted file; 0 where there is none, or none to read."""
    try:
        with opened(compacted) as file:
            return int(file.attrs.get("segments", 0))
    except (OSError, ValueError):
        return 0


class SegmentWriter:
    """Writes the trajectories of a run, segment by segment; a context manager like `TrajectoryWriter`.

    A run that has none before gets its records twice, in segments and in the file that is left when it is complete, so
    that at its end hardly anything is left to do.

    Args:
        directory: the run directory. Segments that it has are kept, and new ones come after them.
        options: attributes, compression and dtype of a `TrajectoryWriter`.
    """

    def __init__(self, directory, **options):
        self._run, self._options = Path(directory), options
        self._folder = self._run / FOLDER
        refuse_links(self._run, (FOLDER, COMPACTED))
        self._writer = None
        fresh = not numbered(self._folder) and not (self._run / COMPACTED).exists()
        self._whole = Joined(self._run / COMPACTED) if fresh else None

    def append(self, recipe=None, trajectory=None, update=None):
        """Add a record, see `TrajectoryWriter.append`."""
        if self._writer is None:
            self._writer = self._next()
        try:
            twins = () if self._whole is None else (self._whole.writer(**self._options),)
            self._writer.append(recipe, trajectory, update, twins=twins)
        except BaseException:
            self._abandon()
            raise

    def close_segment(self, status="closed"):
        """Close the segment that is being written, if there is one; from now on it can be relied on."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close(status)
            path = writer.path.with_suffix("")
            publish(writer.path, path)
            release_memory(path)

    def settle(self):
        """Flush what a complete run's file has so far to the disk; it is not to be relied on before the end."""
        if self._whole is not None:
            self._whole.settle()

    def close(self, status):
        """Close the last segment; a run that is complete gets one file for all."""
        try:
            self.close_segment(status)
            if status == "complete" and numbered(self._folder):
                self._compact()
        finally:
            self._forget_whole()

    def _compact(self):
        if self._whole is None:
            compact(self._run)
        else:
            self._whole.publish("complete", segments=len(numbered(self._folder)))
            _remove_segments(self._run)

    def _abandon(self):
        """Leave the segment, of whose last record only a part may be written, as one that was never closed."""
        writer, self._writer = self._writer, None
        with suppress(OSError):
            writer.close("failed")
        self._forget_whole()

    def _forget_whole(self):
        if self._whole is not None:
            self._whole.discard()
            self._whole = None

    def _next(self):
        if not self._folder.is_dir():
            self._folder.mkdir()
            force_to_disk(self._run)
        number = max(
            [_next_number(self._run / COMPACTED), *(number + 1 for number in numbered(self._folder))]
        )
        path = self._folder / f"{number:06d}.h5{PART}"
        if path.exists():
            raise FileExistsError(
                f"{path} exists: another process writes to this run, or was killed while it did; resume the run"
            )
        return TrajectoryWriter(path, **self._options)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.close("complete")
        else:
            with suppress(OSError):
                self.close("failed")


def compact(directory, status="complete"):
    """Put all closed segments of a run directory into one file, with the same bits in the same order; then remove them.

    Interrupted at any moment, it leaves everything in place once.

    Raises:
        OSError: if a segment is damaged; everything stays as it is.
    """
    run = Path(directory)
    files, _ = find(run)
    with Joined(run / COMPACTED) as joined:
        for file in files:
            joined.add(file)
        joined.publish(status, segments=max(numbered(run / FOLDER), default=-1) + 1)
    _remove_segments(run)


def _remove_segments(run):
    for file in numbered(run / FOLDER).values():
        file.unlink()
    with suppress(OSError):  # there is none, or something else is in it
        (run / FOLDER).rmdir()


def keep_before(directory, number):
    """Begin to resume a run: forget its records from a minibatch on, by its running number, and what was not closed."""
    run = Path(directory)
    refuse_links(run, (FOLDER, COMPACTED))
    refuse_links(run / FOLDER, [file.name for file in numbered(run / FOLDER).values()])
    for left in (*(run / FOLDER).glob(f"*{PART}"), *run.glob(f".{COMPACTED}.*.tmp")):
        left.unlink()
    files = [*numbered(run / FOLDER).values(), *run.glob(COMPACTED)]
    for file in files:
        with opened(file) as source:
            numbers = [foreign.read(group, "number") for group in schema.phase_groups(source).values()]
        numbers = np.concatenate(numbers or [np.array([], int)])
        if (numbers < number).all():
            continue
        if not (numbers < number).any():
            file.unlink()
            continue
        with Joined(file) as joined:
            joined.add(file, before=number)
            joined.publish("closed")
