"""The package, and the oracle of the other tests, against values computed by the published code.

`resources/reference` holds a compact selection; `DFC_REFERENCE_DIR` names a folder with more files of the same kind.
"""

import importlib.util
import os
from pathlib import Path

import numpy as np
import oracle
import pytest
import reference_cases
from reference_cases import FAMILIES, Comparison, comparisons, family, reference_files

import dfc_numba

SHIPPED = Path(__file__).parent / "resources" / "reference"
SCRIPT = Path(__file__).parents[1] / "scripts" / "check_reference.py"
BOUND = 1e-12
IMPLEMENTATIONS = pytest.mark.parametrize("api", [dfc_numba, oracle], ids=["package", "oracle"])


def all_files():
    """The shipped files, and those of `DFC_REFERENCE_DIR` that are not shipped."""
    shipped = reference_files(SHIPPED)
    names = {path.name for path in shipped}
    more = reference_files(os.environ["DFC_REFERENCE_DIR"]) if "DFC_REFERENCE_DIR" in os.environ else []
    return shipped + [path for path in more if path.name not in names]


@IMPLEMENTATIONS
@pytest.mark.parametrize("path", all_files(), ids=lambda path: path.stem)
def test_every_array_is_reproduced(path, api):
    found = {comparison.name: comparison.deviation for comparison in comparisons(path, api)}
    assert found
    assert {name: deviation for name, deviation in found.items() if deviation > BOUND} == {}


def test_the_shipped_files_cover_every_family_readout_and_rule():
    files = reference_files(SHIPPED)
    names = {comparison.name for path in files for comparison in comparisons(path, oracle)}
    assert {family(path) for path in files} == set(FAMILIES)
    variants = [f"{readout}_{rule}" for readout in ("cont", "ss", "ssa", "ndi") for rule in ("nl", "vd")]
    variants += ["cont_dm", "ss_dm", "ndi_dm"]
    gradients = {f"g{kind}1_{variant}" for kind in "Wb" for variant in variants} | {"gQ0", "gQ0_scaled"}
    trajectories = {"v0", "v_ff0", "v_fb0", "r0", "u", "u_int", "sample_error", "n_converged"}
    assert names >= gradients | trajectories | {"r_target", "J", "ssa_dv0", "Q0"}


@pytest.mark.parametrize(
    "ours", [np.ones(3) * (1 + 1e-6), np.ones(1), np.array([1, 1, np.nan])], ids=["value", "shape", "nan"]
)
def test_a_deviation_is_seen(ours):
    assert Comparison("array", ours, np.ones(3)).deviation > BOUND


@pytest.mark.parametrize("suffix, activation", [("", "tanh"), ("_relu", "relu")])
def test_oracle_reproduces_the_gradients_of_backpropagation_and_direct_feedback(suffix, activation):
    with np.load(SHIPPED / "bp_dfa_mse.npz") as a:
        net = oracle.Network(*([a[f"{kind}{i}"] for i in range(3)] for kind in "WbQ"), activation)
        gradients = {
            "bp": oracle.backpropagation_gradient(net, a["x"], a["y"]),
            "dfa": oracle.direct_feedback_gradient(net, a["x"], a["y"], derivative=False),
        }
        for method, ours in gradients.items():
            for i in range(3):
                assert Comparison("W", ours.weights[i], a[f"gW{i}_{method}{suffix}"]).deviation < BOUND
                assert Comparison("b", ours.biases[i], a[f"gb{i}_{method}{suffix}"]).deviation < BOUND


@pytest.fixture
def check_reference():
    """The script, imported from its file."""
    spec = importlib.util.spec_from_file_location("check_reference", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_altered(source, path, **altered):
    with np.load(source) as archive:
        np.savez(path, **{**archive, **altered})


def test_script_accepts_the_shipped_files(check_reference, capsys):
    assert check_reference.main([str(SHIPPED), "--oracle"]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in FAMILIES)


def test_script_refuses_a_deviating_file(check_reference, tmp_path, capsys):
    source = SHIPPED / "opt_onehidden_b1.npz"
    with np.load(source) as archive:
        u = archive["u"] * (1 + 1e-8)
    write_altered(source, tmp_path / source.name, u=u)
    assert check_reference.main([str(tmp_path), "--oracle"]) == 1
    assert "opt_onehidden_b1.npz: u" in capsys.readouterr().out


def test_script_refuses_a_folder_without_reference_files(check_reference, tmp_path, capsys):
    assert check_reference.main([str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_files_of_another_kind_are_left_out(tmp_path):
    np.savez(tmp_path / "measurements.npz", u=np.zeros(3))
    assert reference_cases.reference_files(tmp_path) == []
