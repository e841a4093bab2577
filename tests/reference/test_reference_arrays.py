"""The package, and the oracle of the other tests, against values computed by the published code, array by array.

`resources/reference` and `resources/training` hold a compact selection; `DFC_REFERENCE_DIR` names a folder with more
files of the same kind.
"""

import numpy as np
import oracle
import pytest
from reference_cases import comparisons
from reference_files import (
    FAMILIES,
    RESOURCES,
    Comparison,
    family,
    label,
    more_files,
    read,
    reference_files,
    shipped_files,
)
from reference_table import find_row

FILES = shipped_files() + more_files()
BOUND = 1e-12


@pytest.mark.parametrize("path", FILES, ids=label)
def test_every_array_has_its_row_and_is_reproduced_if_the_row_says_so(path):
    arrays, options = read(path)
    rows = {array: find_row(path, array, options) for array in arrays}
    assert [array for array, row in rows.items() if row is None] == []
    found = {comparison.name: comparison.deviation for comparison in comparisons(path)}
    assert set(found) == {array for array, row in rows.items() if row.compared}
    assert {array: deviation for array, deviation in found.items() if deviation > BOUND} == {}


@pytest.mark.parametrize("path", [path for path in FILES if family(path) != "train"], ids=label)
def test_the_oracle_reproduces_what_it_computes(path):
    found = {comparison.name: comparison.deviation for comparison in comparisons(path, oracle)}
    assert found
    assert {array: deviation for array, deviation in found.items() if deviation > BOUND} == {}


def test_the_shipped_files_cover_every_family_readout_and_rule():
    assert {family(path) for path in shipped_files()} == set(FAMILIES)
    names = {comparison.name for path in shipped_files() for comparison in comparisons(path, oracle)}
    variants = [f"{readout}_{rule}" for readout in ("cont", "ss", "ssa", "ndi") for rule in ("nl", "vd")]
    variants += ["cont_dm", "ss_dm", "ndi_dm", "conteff_pro0_nl", "conteff_pro1_dm", "bp", "dfa_relu", "clip"]
    gradients = {f"g{kind}1_{variant}" for kind in "Wb" for variant in variants} | {"gQ0", "gQ0_scaled"}
    trajectories = {"v0", "v_ff0", "v_fb0", "r0", "u", "u_int", "sample_error", "n_converged"}
    older = {"gQ1_normal_controller", "gQ1_old_learning_rule_homeo"}
    assert names >= gradients | trajectories | older | {"r_target", "J", "ssa_dv0", "Q0", "loss", "y_test"}


@pytest.mark.parametrize(
    "ours", [np.ones(3) * (1 + 1e-6), np.ones(1), np.array([1, 1, np.nan])], ids=["value", "shape", "nan"]
)
def test_a_deviation_is_seen(ours):
    assert Comparison("array", ours, np.ones(3)).deviation > BOUND


def test_an_array_that_nobody_knows_has_no_row():
    path = RESOURCES / "reference" / "ctrl_mse_weak_inst1_pro1_kp0.npz"
    assert find_row(path, "gW0_cont_nl2", {}) is None


def test_files_of_another_kind_are_left_out(tmp_path):
    np.savez(tmp_path / "measurements.npz", u=np.zeros(3))
    assert reference_files(tmp_path) == []
