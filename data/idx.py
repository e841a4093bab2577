"""The IDX file format of MNIST: magic number, sizes (big-endian, 32 bits), unsigned bytes; gzipped or not."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

GZIP_MAGIC = b"\x1f\x8b"


def read_images(path, height=28, width=28):
    """Images of a file as uint8 (N, height * width).

    Raises:
        ValueError: naming the file, for one that is empty, damaged, truncated, too long, not IDX, or of other
            images.
    """
    pixels = _read(path, dimensions=3, content="images")
    if pixels.shape[1:] != (height, width):
        got = " x ".join(map(str, pixels.shape[1:]))
        raise ValueError(f"{path}: the images are {got} pixels; expected {height} x {width}")
    return pixels.reshape(len(pixels), height * width)


def read_labels(path, n_classes=10):
    """Labels of a file as int64 (N,); errors as for `read_images`, and for labels of `n_classes` or more."""
    labels = _read(path, dimensions=1, content="labels").astype(np.int64)
    if labels.max() >= n_classes:
        sample = int(np.argmax(labels >= n_classes))
        raise ValueError(
            f"{path}: label {labels[sample]} at sample {sample}; labels must be 0 to {n_classes - 1}"
        )
    return labels


def _read(path, dimensions, content):
    data = _unpacked(path)
    shape = _shape(path, data, dimensions, content)
    start = 4 + 4 * dimensions
    _check_length(path, len(data) - start, shape)
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _unpacked(path):
    """Content of a file, gunzipped where it begins like a gzip file, whatever its name."""
    try:
        data = Path(path).read_bytes()
        return gzip.decompress(data) if data[:2] == GZIP_MAGIC else data
    except EOFError:
        raise ValueError(
            f"{path}: truncated, the gzip stream ends too early; copy or download it again"
        ) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: damaged gzip file ({error}); copy or download it again") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from None


def _shape(path, data, dimensions, content):
    """Sizes from the header; checks the magic number 0x000008NN, i.e. unsigned bytes in NN dimensions."""
    if not data:
        raise ValueError(f"{path}: the file is empty")
    expected = 0x0800 + dimensions
    magic = int.from_bytes(data[:4], "big")
    if len(data) >= 4 and magic != expected:
        raise ValueError(
            f"{path}: magic number 0x{magic:08x}; an IDX file of {content} begins with 0x{expected:08x}"
        )
    if len(data) < 4 + 4 * dimensions:
        raise ValueError(f"{path}: truncated within the header ({len(data)} bytes)")
    shape = struct.unpack_from(f">{dimensions}I", data, 4)
    if 0 in shape:
        raise ValueError(f"{path}: holds no {content}; the header gives the sizes {shape}")
    return shape


def _check_length(path, got, shape):
    expected = math.prod(shape)
    if got != expected:
        problem = "truncated" if got < expected else "too long"
        raise ValueError(
            f"{path}: {problem}; the header {shape} promises {expected:,} bytes of data, there are {got:,}"
        )
