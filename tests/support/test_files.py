"""Room on a disk, asked for before it is needed."""

import pytest

from dfc_numba.support.files import require_room


def test_room_is_given_back_and_what_no_disk_has_is_refused(tmp_path):
    require_room(tmp_path, 10_000_000)
    with pytest.raises(OSError, match=str(tmp_path)):
        require_room(tmp_path, 2**60)
    assert list(tmp_path.iterdir()) == []


def test_where_room_cannot_be_asked_for_a_piece_is_written(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())
    monkeypatch.setattr("os.fsync", lambda number: written.append(number))
    require_room(tmp_path, 10_000_000)
    assert len(written) == 1 and list(tmp_path.iterdir()) == []
