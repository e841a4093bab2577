"""The relatives against arrays computed by the published codes; `DFC_RELATIVES_DIR` names a folder with more files."""

import numpy as np
import pytest
import relatives_reference as reference

PATHS = [path for family in reference.FAMILIES for path in reference.shipped(family)]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_array_is_reproduced_and_explained(path):
    found = {comparison.name: comparison.deviation for comparison in reference.comparisons(path)}
    assert found
    assert reference.missing(path) == []
    assert {name: deviation for name, deviation in found.items() if deviation > reference.BOUND} == {}


@pytest.mark.parametrize("ours", [np.full(2, 1.0 + 1e-8), np.ones(1), np.array([1.0, np.nan])])
def test_a_deviation_is_seen(ours):
    assert reference.Comparison("array", ours, np.ones(2)).deviation > reference.BOUND


def test_a_result_that_is_not_computed_is_missing(tmp_path):
    arrays, parameters = reference.read(PATHS[0])
    changed = tmp_path / "changed.npz"
    with np.load(PATHS[0]) as archive:
        np.savez(changed, **dict(archive), unheard_of=np.zeros(2))
    assert reference.missing(changed) == ["unheard_of"]
