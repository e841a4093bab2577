"""Files that someone else may have made, or that are damaged: the one door through which all of them are read.

Only regular files are opened, never a pipe or a device. Of an HDF5 file nothing is followed that leads out of it (links,
external storage, virtual data sets), only known filters are run, and what is declared is compared with what is there before
memory is taken for it. HDF5 itself loops for ever on a damaged heap of texts, so its reads pass through `_Guarded`.
"""

import bz2
import fcntl
import hashlib
import os
import re
import stat
import weakref
import zlib
from contextlib import contextmanager
from functools import partial
from typing import ClassVar

import numpy as np

from dfc_numba.errors import DamagedFileError, UnusableFileError
from dfc_numba.support import memory

NUMBERS, SIMPLE = "fiu", "fiub"
FILTERS = "DFC_HDF5_FILTERS"  # environment variable: numbers of further filters that may be run
BUILT_IN = {"gzip": 1, "shuffle": 2, "fletcher32": 3, "szip": 4, "nbit": 5, "scaleoffset": 6, "lzf": 32000}
HARMLESS = {"shuffle", "fletcher32", "nbit", "scaleoffset"}  # they do not make much of little
FILTER_NAMES = {number: name for name, number in BUILT_IN.items()} | {
    307: "bzip2", 32001: "blosc", 32004: "lz4", 32008: "bitshuffle", 32013: "zfp", 32015: "zstd", 32026: "blosc2",
}  # fmt: skip
PIECE = 2**20  # bytes that are read at a time
MOST_INFLATED = 2000  # times the bytes that are stored: deflate reaches 1032
MOST_PACKED = 100_000  # the same for other compressions
UNSUSPICIOUS = 2**26  # bytes that anything may declare
REFUSED = b"\xa5"  # no compression or checksum takes it for something
HEAP, HEAP_HEAD = b"GCOL\x01", 16
OPEN_FAILED = re.compile(
    r"Unable to (?:synchronously )?open file \(([^:)]*).*"
)  # HDF5's words around a short reason
SIGNATURE = b"\x89HDF\r\n\x1a\n"


def sha256_of(path):
    """Return the SHA-256 of the content of a regular file, in hexadecimal digits; errors as of `open_regular`."""
    total = hashlib.sha256()
    with open_regular(path) as file:
        while piece := file.read(PIECE):
            total.update(piece)
    return total.hexdigest()


def open_regular(path):
    """Open a regular file for reading, as a binary file object.

    Raises:
        OSError: if it is missing, cannot be read, or is not a regular file: a pipe would be waited for without end.
    """
    descriptor = os.open(os.path.expanduser(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(f"{path} is a folder, not a file")
        if not stat.S_ISREG(mode):
            raise DamagedFileError(
                f"{path} is not a regular file (a pipe, a socket or a device); name a file"
            )
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_text(path, *, most=2**26):
    """Return the text of a regular file in UTF-8, without a byte order mark.

    Raises:
        OSError: if it cannot be read. UnusableFileError: if it is larger than `most` bytes, or no text.
    """
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise UnusableFileError(
            f"{path} has more than {memory.readable(most)}; a text file of this kind is smaller"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnusableFileError(
            f"{path} is not a text in UTF-8 (byte {error.start}); save it as UTF-8"
        ) from None


@contextmanager
def damage_named(where, passing=()):
    """Turn every error of a library about a part of a file into one that says where, but for those in `passing`."""
    try:
        yield
    except (
        DamagedFileError,
        UnusableFileError,
        FileNotFoundError,
        IsADirectoryError,
        PermissionError,
        MemoryError,
    ):
        raise
    except Exception as error:
        if isinstance(error, passing):
            raise
        text = error.args[0] if error.args else type(error).__name__
        raise DamagedFileError(f"{where} is damaged, or cannot be read: {text}") from None


# --- opening HDF5 ---------------------------------------------------------------------------------------------


class _Guarded:
    """The file below HDF5: a heap of texts that is damaged is not handed on, nor a chunk that would inflate without bound.

    HDF5 reads something else in their place, which it refuses.
    """

    live: ClassVar[dict] = {}  # what is open, by the name that HDF5 knows it by
    _descriptor = None

    def __init__(self, path):
        with open_regular(path) as file:
            self._descriptor = os.dup(file.fileno())
        self.path, self._at = str(path), 0
        self._size = os.fstat(self._descriptor).st_size
        self.packed = {}  # chunks to look into before they are unpacked: address -> (size, function of the bytes)
        self.checked = set()  # addresses of the data sets whose chunks were looked up
        self.live.setdefault(repr(self), weakref.WeakSet()).add(self)

    def __repr__(self):
        return ascii(self.path)[1:-1]

    def __del__(self, close=os.close):
        if self._descriptor is not None:
            close(self._descriptor)

    def seek(self, offset, whence=0):
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self):
        return self._at

    def read(self, count):  # h5py takes what has it for a file
        content = self.bytes(self._at, count)
        self._at += len(content)
        return content

    def readinto(self, buffer):
        view = memoryview(buffer).cast("B")
        content = self.bytes(self._at, len(view))
        view[: len(content)] = content
        view[len(content) :] = bytes(len(view) - len(content))
        self._guard_heaps(view, content)
        size, sound = self.packed.get(self._at, (None, None))
        if size == len(view) and not sound(content):
            view[:] = REFUSED * len(view)
        self._at += len(view)
        return len(view)

    def write(self, _):
        raise OSError("opened for reading")

    def truncate(self, _=None):
        pass

    def flush(self):
        pass

    def bytes(self, start, count):
        """Return the bytes of a range, as far as the file has them."""
        return os.pread(self._descriptor, min(count, max(0, self._size - start)), start)

    def is_hdf5(self):
        """Return whether there is a signature where a superblock may begin: at 0, 512, 1024, 2048, ..."""
        place = 0
        while place < self._size and self.bytes(place, 8) != SIGNATURE:
            place = max(512, 2 * place)
        return place < self._size

    def is_being_written(self):
        """Return whether a program has it open for writing, as far as its file system has locks."""
        if os.environ.get("HDF5_USE_FILE_LOCKING", "").upper() in ("FALSE", "0"):
            return False
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # there are none
            return False
        return False

    def _guard_heaps(self, view, content):
        first = max(0, self._at - 4)
        text = self.bytes(first, self._at - first) + content + self.bytes(self._at + len(content), 4)
        place = text.find(HEAP)
        while place >= 0:
            if not self._heap_is_sound(first + place):
                start = first + place - self._at
                for n in range(max(start, 0), min(start + 4, len(view))):
                    view[n] = 0
            place = text.find(HEAP, place + 1)

    def _heap_is_sound(self, start):
        """Return whether the objects of a heap fill it, one after the other: index, references, reserved, size, content."""
        size = int.from_bytes(self.bytes(start + 8, 8), "little")
        heap, place = self.bytes(start, size), HEAP_HEAD
        if not HEAP_HEAD <= size == len(heap):
            return False
        while place + HEAP_HEAD <= size:
            index = int.from_bytes(heap[place : place + 2], "little")
            length = int.from_bytes(heap[place + 8 : place + 16], "little")
            length = HEAP_HEAD + -(-length // 8) * 8 if index else length
            if not HEAP_HEAD <= length <= size - place:
                return False
            place += length
        return True


def open_hdf5(path, *, alone=False):
    """Open an HDF5 file for reading.

    Args:
        alone: refuse a file that a program has open for writing, as far as its file system has locks.

    Raises:
        OSError: if it is missing, cannot be read, or is damaged. UnusableFileError: if a program is writing it.
    """
    import h5py

    guarded = _Guarded(path)
    if alone and guarded.is_being_written():
        raise UnusableFileError(
            f"{path} is open for writing in another program; close it there, or copy the file"
        )
    if not guarded.is_hdf5():
        raise DamagedFileError(
            f"{path} cannot be read: damaged, or not an HDF5 file (file signature not found)"
        )
    try:
        return h5py.File(guarded, "r", rdcc_nbytes=2**20)
    except Exception as error:  # noqa: BLE001 (h5py raises anything where a file is damaged)
        reason = OPEN_FAILED.sub(r"\1", str(error))
        raise DamagedFileError(f"{path} cannot be read: damaged, or not an HDF5 file ({reason})") from None


def file_name(item):
    """Return the path of the file that a group or data set is in."""
    name = item.file.filename
    return next((guarded.path for guarded in _Guarded.live.get(name, ())), name)


# --- looking into HDF5 ----------------------------------------------------------------------------------------


def names(group):
    """Return the names of what a group holds; refuse links that lead elsewhere.

    Raises:
        UnusableFileError: for a link. DamagedFileError: if the group cannot be read.
    """
    from h5py import h5l

    where, found = file_name(group), []
    with damage_named(where):
        for raw in group.id:
            kind = group.id.links.get_info(raw).type
            name = raw.decode(errors="replace")
            if kind != h5l.TYPE_HARD:
                what = {h5l.TYPE_SOFT: "a soft link", h5l.TYPE_EXTERNAL: "a link to another file"}.get(
                    kind, "a link"
                )
                raise UnusableFileError(
                    f"{where}: {group.name.rstrip('/')}/{name} is {what}, which is not followed; "
                    "copy what it leads to into the file"
                )
            found.append(name)
    return found


def member(group, name):
    """Return what a group holds under a name, or None; refuse a link that leads elsewhere, see `names`."""
    import h5py

    where = f"{file_name(group)}: {group.name.rstrip('/')}/{name}"
    with damage_named(where):
        for part in name.split("/"):
            if not isinstance(group, h5py.Group) or part not in names(group):
                return None
            group = group[part]
        return group


def subgroup(group, name):
    """Return the group that a group holds under a name.

    Raises:
        DamagedFileError: if there is none.
    """
    import h5py

    found = member(group, name)
    if not isinstance(found, h5py.Group):
        raise DamagedFileError(
            f"{file_name(group)}: {group.name.rstrip('/')}/{name} is damaged, or cannot be read: it is missing, or no group"
        )
    return found


def dataset(group, name, *, shape=None, kinds=NUMBERS):
    """Return a data set of plain numbers that is in the file itself, its size compared with what is stored.

    Args:
        shape: that it has to have; None in it, or for it, allows any. kinds: of NumPy's dtype kinds.

    Raises:
        UnusableFileError: for anything else, or a filter that is missing or unknown. DamagedFileError: if it is missing.
    """
    import h5py

    where = f"{file_name(group)}: {group.name.rstrip('/')}/{name}"
    found = member(group, name)
    if found is None:
        raise UnusableFileError(f"{where} is missing; the file is not complete")
    with damage_named(where):
        if not isinstance(found, h5py.Dataset) or found.shape is None or found.dtype.kind not in kinds:
            raise UnusableFileError(f"{where} is not a numeric array")
        if found.is_virtual or found.external:
            raise UnusableFileError(f"{where} is kept in other files, which are not opened")
        if shape is not None and not _fits(found.shape, shape):
            raise UnusableFileError(f"{where} has the shape {found.shape}; expected {shape}")
        _check_filters(where, found)
        return found


def _fits(shape, expected):
    return len(shape) == len(expected) and all(
        b is None or a == b for a, b in zip(shape, expected, strict=True)
    )


def read(group, name, **options):
    """Return all of a data set as an array, see `dataset`; MemoryError for one that does not fit into memory."""
    found = dataset(group, name, **options)
    where = f"{file_name(group)}: {found.name}"
    memory.require(found.nbytes, f"{where} of shape {found.shape}", "use a machine with more memory")
    with damage_named(where):
        return found[...]


def attributes(item):
    """Return the attributes of a file, group or data set that are texts or numbers."""
    import h5py

    found = {}
    with damage_named(f"{file_name(item)}: {item.name}"):
        for name in item.attrs:
            try:
                kind = item.attrs.get_id(name).dtype
            except TypeError:  # of a type that NumPy does not have
                continue
            if h5py.check_string_dtype(kind) is not None or kind.kind in SIMPLE:
                value = item.attrs[name]
                found[name] = value.decode(errors="replace") if isinstance(value, bytes) else value
    return found


# --- filters --------------------------------------------------------------------------------------------------


def _check_filters(where, found):
    """Refuse filters that are not known, and sizes that what is stored cannot have."""
    pipeline = found.id.get_create_plist()
    numbers = [pipeline.get_filter(n)[0] for n in range(pipeline.get_nfilters())]
    packing = [number for number in numbers if FILTER_NAMES.get(number) not in HARMLESS]
    for number in packing:
        _require_filter(where, number)
    if len(packing) > 1:
        raise UnusableFileError(
            f"{where} is compressed twice, which is not unpacked; store it with one compression"
        )
    stored = found.id.get_storage_size()
    most = MOST_INFLATED if not packing or packing[0] in (1, 4, 32000) else MOST_PACKED
    if found.nbytes > UNSUSPICIOUS and found.nbytes > most * stored:
        raise UnusableFileError(
            f"{where} declares {memory.readable(found.nbytes)} of numbers, of which the file holds "
            f"{memory.readable(stored)}; it is damaged, or made to exhaust the memory"
        )
    if packing and found.chunks:
        _look_up_chunks(where, found, packing[0], numbers.index(packing[0]))


def _require_filter(where, number):
    """Refuse a filter that is neither HDF5's nor h5py's own, unless it is one of hdf5plugin or allowed by the user."""
    allowed = os.environ.get(FILTERS, "").replace(",", " ").split()
    if number in BUILT_IN.values() or str(number) in allowed:
        return
    name = FILTER_NAMES.get(number, f"filter {number}")
    try:
        import hdf5plugin
    except ImportError:
        raise UnusableFileError(
            f"{where} is compressed with {name}, which the extra compression installs: "
            "pip install 'dfc-numba[compression]'"
        ) from None
    if number not in hdf5plugin.FILTERS.values():
        raise UnusableFileError(
            f"{where} is compressed with {name}, which is not one of HDF5 or hdf5plugin; store it with gzip, or allow it "
            f"with the environment variable {FILTERS}={number}"
        )


def _look_up_chunks(where, found, number, place):
    """Compare the sizes of stored chunks with what they unpack to, and note those whose content has to be inspected.

    Args:
        number: of the filter that compresses. place: its place in the pipeline; chunks may be stored without it.
    """
    import h5py

    sources, address = _Guarded.live.get(found.file.filename, ()), h5py.h5o.get_info(found.id).addr
    if all(address in source.checked for source in sources):
        return
    size = int(np.prod(found.chunks, dtype=object)) * found.dtype.itemsize
    most = size + size // 8 + 2**14
    sound = partial(_unpacks_to, number, size)

    def look(info):
        if info.size > most:
            raise UnusableFileError(
                f"{where} has a chunk of {info.size} bytes for {size} bytes of numbers; it is damaged"
            )
        for source in sources if not info.filter_mask >> place & 1 else ():
            source.packed[info.byte_offset] = info.size, sound

    found.id.chunk_iter(look)
    for source in sources:
        source.checked.add(address)


def _unpacks_to(number, size, content):
    """Return whether a chunk that was compressed by a filter unpacks to at most `size` bytes and a checksum."""
    most = size + 8
    if number == 1:
        return _inflates(zlib.decompressobj(), content, most)
    if number == 307:
        return _inflates(bz2.BZ2Decompressor(), content, most)
    if number == 32026 and content[2:9] == b"b2frame":
        return int.from_bytes(content[30:38], "big") <= most
    if number in (32001, 32026):
        return int.from_bytes(content[4:8], "little") <= most
    if number == 32004:
        return int.from_bytes(content[:8], "big") <= most
    if number == 32015:
        return _zstd_size(content) <= most
    return True


def _inflates(unpacker, content, most):
    try:
        return len(unpacker.decompress(content, most + 1)) <= most
    except (zlib.error, OSError, ValueError):
        return True  # no bomb: HDF5 says what is wrong with it


def _zstd_size(content):
    """Return the size that a frame of zstd declares; 0 where it declares none."""
    descriptor = content[4] if len(content) > 4 else 0
    single, code = descriptor >> 5 & 1, descriptor >> 6
    length = (1 if single else 0, 2, 4, 8)[code]
    start = 5 + (0 if single else 1) + (0, 1, 2, 4)[descriptor & 3]
    return int.from_bytes(content[start : start + length], "little") + (256 if length == 2 else 0)
