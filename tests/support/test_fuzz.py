"""Damaged files of every kind: 100 flipped bits and 100 structural changes each; scripts/fuzz_files.py tries more."""

import pytest
from fuzz_files import KINDS, campaign


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_refused_and_nothing_hangs(tmp_path, kind):
    outcomes, failures = campaign(kind, 100, 100, 1, tmp_path)
    assert failures == []
    assert sum(outcomes.values()) == 200
