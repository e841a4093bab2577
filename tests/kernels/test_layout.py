"""Strides of packed rows, for the widths of panels that processors have."""

import numpy as np
import pytest

from dfc_numba.kernels import layout
from dfc_numba.kernels.emit import _register_bytes

# panel widths in float64: SSE2, NEON, AVX2, AVX-512
WIDTHS = (6, 8, 12, 16)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_row_has_room_for_its_panels_and_for_no_other(monkeypatch, width, dtype):
    width *= 8 // np.dtype(dtype).itemsize
    monkeypatch.setattr(layout, "panel_width", lambda dtype: width)
    for size in range(1, 700):
        stride = layout.row_stride(size, dtype)
        assert stride >= size and stride // width == -(-size // width)


@pytest.mark.parametrize("width", WIDTHS[1:])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_rows_spread_over_the_sets_of_the_cache(monkeypatch, width, dtype):
    """16 rows of a power of two of units begin in 16 different of 64 sets of cache lines, or nearly so."""
    itemsize = np.dtype(dtype).itemsize
    width *= 8 // itemsize
    monkeypatch.setattr(layout, "panel_width", lambda dtype: width)
    for size in (64, 128, 256, 512, 1024, 2048, 4096):
        starts = np.arange(16) * layout.row_stride(size, dtype) * itemsize
        assert len(set(starts // layout.CACHE_LINE % 64)) >= 8


@pytest.mark.parametrize(
    "features, width",
    [
        ({"avx512f", "avx2", "avx"}, 64),
        ({"avx2", "fma"}, 32),
        ({"avx"}, 32),
        ({"fma"}, 32),
        ({"sse2", "sse4.2"}, 16),
        (set(), 16),
    ],
)
def test_a_feature_that_brings_avx_gives_its_registers(features, width):
    assert _register_bytes(features) == width
