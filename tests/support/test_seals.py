"""Seals of the texts that a run, a sweep or a comparison writes: damage and edits are reported, others are read as usual."""

import csv
import json
import shutil
import subprocess
import sys
import warnings

import pytest
from command_line import invoked

from dfc_numba.configuration.config_file import load_config
from dfc_numba.errors import ConfigurationError
from dfc_numba.runs import summary
from dfc_numba.runs.run_directory import read_metrics, read_record
from dfc_numba.support import seals
from dfc_numba.sweep.sweep_folder import SweepFolder

FAST = [
    "--set=training.method=bp",
    "--set=network.hidden=[8]",
    "--set=data.options.train_size=100",
    "--threads=1",
]
SWEEP = """[sweep]
presets = ["digits"]
seeds = [0]
set."training.method" = ["bp"]
set."training.epochs" = [1]
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sealed") / "run"
    assert invoked("train", "digits", *FAST, "--epochs=2", "--out", directory).exit_code == 0
    return directory


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def warned(function, *arguments):
    """The texts of the warnings of a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function(*arguments)
    return [str(warning.message) for warning in caught]


def changed(path, old, new):
    """Put another text into a file, once."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_what_a_run_has_written_gives_no_warning(run):
    assert (
        warned(read_record, run)
        == warned(read_metrics, run)
        == warned(load_config, str(run / "config.toml"))
        == []
    )
    record = json.loads((run / "run.json").read_text())
    assert list(record)[-1] == "sha256" and {*record["files"]} == {"config.toml", "metrics.csv"}
    assert "sha256" not in read_record(run)


def test_a_changed_record_is_told_and_read_as_it_is(run):
    changed(run / "run.json", '"status": "done"', '"status": "dona"')
    (text,) = warned(lambda: read_record(run)["status"] == "dona" or pytest.fail())
    assert str(run / "run.json") in text and "its SHA-256 differs" in text
    record = json.loads((run / "run.json").read_text())
    record.pop("sha256")
    (run / "run.json").write_text(json.dumps(record))
    assert len(warned(read_record, run)) == 1
    (run / "run.json").write_text(json.dumps(record | {"schema_version": "1.0"}))
    assert warned(read_record, run) == []


def test_a_record_of_an_earlier_version_and_one_that_is_laid_out_anew_are_read(run):
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(dict(sorted(record.items()))))
    assert warned(read_record, run) == []
    (run / "run.json").write_text('{"schema_version": "1.0", "status": "done"}')
    assert warned(read_record, run) == [] and read_record(run)["status"] == "done"


@pytest.mark.parametrize(
    ("name", "old", "new", "read"),
    [
        ("config.toml", "epochs = 2", "epochs = 3", lambda run: load_config(str(run / "config.toml"))),
        ("metrics.csv", "\n1,2.", "\n1,3.", read_metrics),
        ("metrics.csv", "\n2,", "\n2,2,", read_metrics),
    ],
)
def test_a_changed_text_is_told_and_read_as_it_is(run, name, old, new, read):
    changed(run / name, old, new)
    (text,) = warned(read, run)
    assert str(run / name) in text and "not as the run wrote it" in text


def test_rows_beyond_the_seal_are_a_run_at_work_or_damage(run):
    """metrics.csv is written before run.json: one that is killed in between has a row more."""
    with open(run / "metrics.csv", "a") as file:
        file.write("3" + "," * 7 + "\n")
    assert len(warned(read_metrics, run)) == 1
    record = read_record(run) | {"status": "running"}
    (run / "run.json").write_text(json.dumps(seals.sealed(record)))
    assert warned(read_metrics, run) == []


def test_line_ends_of_another_system_are_no_change(run):
    content = (run / "config.toml").read_bytes()
    (run / "config.toml").write_bytes(content.replace(b"\n", b"\r\n"))
    assert warned(load_config, str(run / "config.toml")) == []


def test_a_copy_of_a_configuration_elsewhere_may_be_edited(run, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(run / "config.toml", tmp_path / "elsewhere")
    changed(tmp_path / "elsewhere" / "config.toml", "epochs = 2", "epochs = 3")
    assert warned(load_config, str(tmp_path / "elsewhere" / "config.toml")) == []


def test_a_run_that_goes_on_seals_its_files_anew(run):
    changed(run / "metrics.csv", "\n1,2.", "\n1,3.")
    assert invoked("train", "--resume", "--epochs=3", "--out", run).exit_code == 0
    assert (
        warned(read_record, run)
        == warned(read_metrics, run)
        == warned(load_config, str(run / "config.toml"))
        == []
    )
    assert len(read_metrics(run)) == 3 and read_metrics(run)[0]["train_loss"].startswith("2.")


def test_the_command_line_tells_of_a_changed_configuration(run):
    changed(run / "config.toml", "epochs = 2", "epochs = 3")
    command = [sys.executable, "-m", "dfc_numba", "evaluate", str(run)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0 and "config.toml is not as the run wrote it" in found.stderr.replace(
        "\n", " "
    )


def test_the_table_and_the_sources_of_a_sweep_are_sealed(tmp_path):
    (tmp_path / "sweep.toml").write_text(SWEEP)
    assert invoked("sweep", tmp_path / "sweep.toml", "--out", tmp_path / "s", "--threads=1").exit_code == 0
    assert warned(SweepFolder.open, tmp_path / "s") == []
    source = next((tmp_path / "s" / "sources").iterdir())
    assert warned(load_config, str(source)) == []
    changed(source, "seed = 0", "seed = 1")
    (text,) = warned(load_config, str(source))
    assert "not as the sweep wrote it" in text
    changed(tmp_path / "s" / "sweep.json", '"seed": 0', '"seed": 1')
    with pytest.raises(
        ConfigurationError, match=r"sweep.json is damaged, or was edited.*put the original back"
    ):
        SweepFolder.open(tmp_path / "s")


def test_the_tables_of_a_comparison_have_sums_that_other_tools_check(tmp_path):
    result = invoked("compare", "digits", *FAST, "--epochs=1", "--out", tmp_path / "c")
    assert result.exit_code == 0
    subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / "c", check=True, capture_output=True)
    assert warned(summary.read_courses, tmp_path / "c") == []
    rows = list(csv.reader((tmp_path / "c" / "comparison.csv").read_text().splitlines()))
    changed(tmp_path / "c" / "comparison.csv", rows[1][4], "0.5")
    (text,) = warned(summary.read_courses, tmp_path / "c")
    assert "comparison.csv is damaged, or was edited" in text


@pytest.mark.parametrize("text", ["[]", "3", "{}", '{"schema": "dfc-numba/sweep"}', "[" * 20000, "{"])
def test_what_is_not_the_table_of_a_sweep_is_refused_in_words(tmp_path, text):
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(ConfigurationError, match=r"sweep.json is damaged: it is not the table of a sweep"):
        SweepFolder.open(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "epoch\n1\n",
        "a,b\n1,2\n",
        '"epoch,train_loss\n1,2',
        "{heading}\n1\n",
        "{heading}\n" + "x," * 7 + "x\n",
        "9" * 200000,
    ],
)
def test_a_damaged_table_of_epochs_is_refused_by_its_name(run, tmp_path, text):
    """By commands that compute with its numbers; a report shows what can be read."""
    heading = (run / "metrics.csv").read_text().splitlines()[0]
    (run / "metrics.csv").write_text(text.replace("{heading}", heading))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = invoked("compare", run, "--out", tmp_path / "c")
        assert result.exit_code == 2 and "metrics.csv is damaged" in result.stderr.replace("\n", " ")
        assert invoked("report", run, "--out", tmp_path / "page.html").exit_code == 0


@pytest.mark.parametrize("name", ["sweep.json", "sources", "logs", ".lock"])
def test_a_link_within_a_sweep_is_refused_and_what_it_leads_to_stays(tmp_path, name):
    (tmp_path / "sweep.toml").write_text(SWEEP)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / name).symlink_to(tmp_path / "elsewhere")
    result = invoked("sweep", tmp_path / "sweep.toml", "--out", tmp_path / "s", "--threads=1")
    assert result.exit_code == 2 and f"{name} is a symbolic link" in result.stderr.replace("\n", " ")
    assert not list((tmp_path / "elsewhere").iterdir())
