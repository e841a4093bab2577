"""Trajectory files in other programs: xarray, h5netcdf, netCDF4 and plain h5py see named dimensions and coordinates."""

import h5py
import numpy as np
import pytest
from storage_files import record, write

from dfc_numba.storage.reader import open_trajectories

xarray = pytest.importorskip("xarray")
h5netcdf = pytest.importorskip("h5netcdf")

COUNTS = [5, 3, 5]
DIMS = {
    "u": ("record", "step", "sample", "output"), "e": ("record", "step", "sample", "output"),
    "error": ("record", "step", "sample"), "v_2": ("record", "step", "sample", "unit_2"),
    "noise_1": ("record", "step", "sample", "unit_1"), "inputs": ("record", "minibatch_sample", "input"),
    "target": ("record", "minibatch_sample", "output"), "sample_index": ("record", "minibatch_sample"),
    "epoch": ("record",), "converged": ("record", "sample"), "time": ("step",),
    "dW_1": ("record", "unit_1", "input"), "dW_2": ("record", "unit_2", "unit_1"), "db_3": ("record", "unit_3"),
}  # fmt: skip


@pytest.fixture(scope="module")
def records():
    return [record(n, count=count) for n, count in enumerate(COUNTS)]


@pytest.fixture(scope="module", params=["none", "gzip"])
def path(tmp_path_factory, records, request):
    path = tmp_path_factory.mktemp("files") / "a.h5"
    write(path, records, compression=request.param)
    return path


@pytest.fixture
def forward(path):
    """The phase as xarray opens it with no other argument."""
    with xarray.open_dataset(path, engine="h5netcdf", group="forward") as dataset:
        yield dataset


def test_dimensions_have_names(forward):
    assert dict(forward.sizes) == {
        "record": 3, "step": 31, "sample": 5, "minibatch_sample": 5, "input": 4, "output": 3, "unit_1": 6, "unit_2": 5,
        "unit_3": 3,
    }  # fmt: skip
    assert {name: forward[name].dims for name in DIMS} == DIMS


def test_the_numbers_are_those_of_the_file(path, forward):
    with open_trajectories(path) as file:
        for name in file["forward"].variables:
            stored = file["forward"].variable(name)
            assert forward[name].dims == stored.dims
            assert np.array_equal(forward[name].values, stored, equal_nan=forward[name].dtype.kind == "f"), (
                name
            )
            assert forward[name].dtype == stored.dtype, name


def test_coordinates_select_steps_and_minibatches(forward, records):
    assert {"time", "epoch", "minibatch", "number", "position"} <= set(forward.coords)
    assert forward.step.values.tolist() == list(range(31)) and forward.record.values.tolist() == [0, 1, 2]
    v = forward.v_2.sel(step=slice(10, 20), sample=1).isel(record=2)
    assert np.array_equal(v, records[2][1].v[1][10:21, 1])
    late = forward.u.where(forward.time > 1.0, drop=True)
    assert np.array_equal(late[0], records[0][1].u[records[0][1].time > 1.0])
    assert np.isnan(forward.v_1[1, :, 3:]).all() and (forward.position[1, 3:] == -1).all()


def test_time_is_a_number_in_units_of_tau_u(forward, records):
    assert forward.time.dtype == np.float64 and forward.time.attrs["units"] == "tau_u"
    assert np.array_equal(forward.time, records[0][1].time)


def test_every_variable_has_a_long_name_and_a_unit(path, forward):
    assert all(
        forward[name].attrs["long_name"] and forward[name].attrs["units"] for name in forward.variables
    )
    assert forward.v_ff_2.attrs["long_name"] == "basal (feedforward) voltage of layer 2"
    assert forward.converged.attrs["flag_meanings"].split() == ["no", "yes"]
    assert forward.attrs["phase"] == "forward" and '"steps": 30' in forward.attrs["controller"]


@pytest.mark.parametrize(
    ("group", "dims"),
    [
        ("weights_snapshots", {"W_1": ("snapshot", "unit_1", "input"), "b_3": ("snapshot", "unit_3")}),
        ("feedback_snapshots", {"Q_2": ("snapshot", "unit_2", "output")}),
    ],
)
def test_xarray_opens_the_parameters(path, records, group, dims):
    with xarray.open_dataset(path, engine="h5netcdf", group=group) as dataset:
        assert {name: dataset[name].dims for name in dims} == dims
        assert dataset.sizes["snapshot"] == 1
        if group == "weights_snapshots":
            assert np.array_equal(dataset.W_1[0], records[0][0].network.weights[0])


def test_all_groups_open_as_a_tree(path):
    with xarray.open_datatree(path, engine="h5netcdf") as tree:
        assert set(tree.children) == {"forward", "weights_snapshots", "feedback_snapshots"}
        assert tree.attrs["schema"] == "dfc-numba/trajectory"


def test_a_part_is_read_lazily(path, records):
    with xarray.open_dataset(path, engine="h5netcdf", group="forward", chunks=None) as dataset:
        one = dataset.v_1[2, ::10, 0]
        assert not dataset.v_1.variable._in_memory
        assert np.array_equal(one, records[2][1].v[0][::10, 0])


def test_h5netcdf_has_no_phony_dimensions(path):
    with h5netcdf.File(path, "r") as file:
        forward = file["forward"]
        assert set(forward.dimensions) == {
            "record",
            "step",
            "sample",
            "minibatch_sample",
            "input",
            "output",
        } | {f"unit_{n}" for n in (1, 2, 3)}
        assert {name for name, dim in forward.dimensions.items() if dim.isunlimited()} == {
            "record", "sample", "minibatch_sample",
        }  # fmt: skip
        assert all(forward.variables[name].dimensions == dims for name, dims in DIMS.items())


def test_netcdf4_reads_the_same_numbers_and_dimensions(path, records):
    netcdf4 = pytest.importorskip("netCDF4")
    with netcdf4.Dataset(path) as file:
        forward = file["forward"]
        assert {name: forward[name].dimensions for name in DIMS} == DIMS
        assert np.array_equal(forward["u"][0], records[0][1].u)
        assert forward["u"].units == "1" and forward["time"].units == "tau_u"


def test_plain_h5py_sees_chunks_checksums_and_one_scale_on_each_axis(path):
    with h5py.File(path) as file:
        for group in file.values():
            for name, dataset in group.items():
                assert dataset.chunks is not None and dataset.fletcher32, name
                assert dataset.attrs["long_name"] and dataset.attrs["units"]
                if not dataset.is_scale:
                    assert all(len(dimension) == 1 for dimension in dataset.dims), name
        assert file["forward/v_2"].dims[3][0] == file["forward/unit_2"]
        assert file.attrs["schema"] == "dfc-numba/trajectory" and isinstance(file.attrs["versions"], str)
