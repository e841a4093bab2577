"""Sweep files: the runs that one stands for, their names, and everything that is refused before anything starts."""

import pytest

from dfc_numba.errors import ConfigurationError
from dfc_numba.sweep.sweep_file import read_sweep, run_name, seconds_of, toml_text


@pytest.fixture
def sweep(tmp_path):
    def written(text):
        path = tmp_path / "gains.toml"
        path.write_text(text)
        return read_sweep(path)

    return written


def test_presets_seeds_and_axes_make_a_grid_and_single_runs_come_after_it(sweep):
    planned = sweep(
        """
        [sweep]
        presets = ["digits", "student-teacher"]
        seeds = [3, 4]
        set."controller.k_p" = [1.0, 0.5]
        set.training.epochs = 2
        [[sweep.run]]
        preset = "digits"
        set."network.hidden" = [8, 8]
        """
    )
    assert planned.name == "gains" and len(planned.runs) == 9
    assert [run.name for run in planned.runs[:3]] == [
        "digits+controller.k_p=1.0-seed3", "digits+controller.k_p=0.5-seed3", "student-teacher+controller.k_p=1.0-seed3",
    ]  # fmt: skip
    assert {run.config.training.epochs for run in planned.runs} == {2}
    assert [run.config.training.seed for run in planned.runs[:8]] == 4 * [3] + 4 * [4]
    single = planned.runs[-1]
    assert single.name == "digits+network.hidden=8,8" and list(single.config.network.hidden) == [8, 8]


def test_a_file_beside_the_sweep_file_is_found_from_everywhere(tmp_path, sweep, monkeypatch):
    (tmp_path / "mine.toml").write_text('[network]\nhidden = [5]\n[training]\nmethod = "bp"\n')
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (run,) = sweep('[sweep]\npresets = ["mine.toml"]').runs
    assert run.name == "mine" and list(run.config.network.hidden) == [5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[sweep]\npresets = []", "no runs"),
        ('[sweep]\npresets = ["digits"]\nset."controller.k_q" = [1]', r"controller\.k_q: no such key"),
        ('[sweep]\npresets = ["digits"]\nset."controller.k_p" = [1.0, -1.0]', r"k_p=-1\.0: controller\.k_p = -1"),
        ('[sweep]\npresets = ["digit"]', "unknown preset 'digit'"),
        ('[sweep]\npresets = ["digits"]\nseeds = [1, 1]', "seeds lists 1 twice"),
        ('[sweep]\npresets = ["digits"]\nseeds = [1]\nset."training.seed" = [2]', "set the same key"),
        ('[sweep]\npresets = ["digits"]\nset.controller.k_p = 1\nset."controller.k_p" = [2]', "is set twice"),
        ('[sweep]\npresets = ["digits"]\nset."data.options" = [{}]\nset."data.options.train_size" = [9]', "the same key"),
        ('[sweep]\npresets = ["digits"]\nset."controller.k_p" = [1.0, 1]', "are the same run"),
        ('[sweep]\npresets = ["digits"]\nset."data.name" = ["a/b.npz", "a-b.npz"]', "two runs .* one directory"),
        ('[sweep]\npresets = ["digits"]\nset."controller.k_p" = []', "at least one value"),
        ('[sweep]\npresets = ["digits"]\nseeds = ["a"]', "whole numbers"),
        ('[sweep]\npresets = ["digits"]\nsede = [1]', "'sede' is not a key of .*did you mean 'seeds'|'sede' is not a key"),
        ('[sweep]\npresets = ["digits"]\n[slum]\ntime = "1"', "'slum' is not a section"),
        ('[sweep]\npresets = ["digits"]\n[slurm]\ntime = "soon"', "slurm.time: 'soon' is not a time limit"),
        ('[sweep]\npresets = ["digits"]\n[slurm]\ntime = "00:00:30"', "at least one minute"),
        ('[sweep]\npresets = ["digits"]\n[slurm]\nmemory = "much"', "slurm.memory"),
        ('[sweep]\npresets = ["digits"]\n[slurm]\ncpus = 0', "above 0"),
        ('[sweep]\npresets = ["digits"]\n[slurm]\noptions = ["account=x"]', "an option of sbatch"),
        ("presets = 3", "must be a section|is not a section"),
        ("[sweep", "is not a TOML file"),
    ],
)  # fmt: skip
def test_a_sweep_file_without_meaning_is_refused(sweep, text, message):
    with pytest.raises(ConfigurationError, match=message):
        sweep(text)


def test_two_runs_never_get_one_directory(sweep, tmp_path):
    for name in ("a b.toml", "a-b.toml"):
        (tmp_path / name).write_text('[training]\nmethod = "bp"\n')
    with pytest.raises(ConfigurationError, match="same run|one name|one directory"):
        sweep('[sweep]\npresets = ["a b.toml", "a-b.toml"]')


def test_long_names_are_cut_and_stay_apart():
    names = {run_name("digits", {"network.hidden": [1000 + k] * 60}, 0) for k in range(3)}
    assert len(names) == 3 and all(len(name.encode()) <= 200 for name in names)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("10:30", 630),
        ("04:00:00", 14400),
        ("2-03", 183600),
        ("1-00:30", 88200),
        ("1-01:01:01", 90061),
    ],
)
def test_time_limits_are_read_as_slurm_reads_them(text, seconds):
    assert seconds_of(text) == seconds


def test_values_are_written_as_toml():
    assert toml_text([True, 1e-3, 'a"b', [1, 2], {"x": 1}]) == '[true, 0.001, "a\\"b", [1, 2], { "x" = 1 }]'
