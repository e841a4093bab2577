"""`dfc train --scratch`: the same bits, and what a killed run has left behind is enough to go on."""

import json

import sweeps

SETTINGS = [
    "--set=training.method=bp",
    "--set=network.hidden=[6]",
    "--set=data.options.train_size=300",
    "--threads",
    1,
]


def test_a_run_in_scratch_is_killed_and_goes_on_from_what_was_copied_back(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    line = ["train", "digits", *SETTINGS, "--epochs", 30]
    process = sweeps.start(*line, "--out", tmp_path / "run", "--scratch", disk)
    sweeps.until(lambda: sweeps.epochs_of(tmp_path, "run") > 3)
    process.kill()
    process.communicate()
    sweeps.dfc(*line, "--out", tmp_path / "run", "--scratch", disk, "--resume")
    sweeps.dfc(*line, "--out", tmp_path / "whole")
    for name in ("weights_last.h5", "weights_best.h5"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "done" and record["resumed"] == 1
    assert not list((tmp_path / "run").glob("*.tmp")) and len(list(disk.iterdir())) == 1, (
        "the killed one's folder"
    )


def test_a_disk_that_is_not_there_leaves_no_run_behind(tmp_path):
    text = sweeps.dfc(
        "train", "digits", *SETTINGS, "--out", tmp_path / "run", "--scratch", "$NO_DISK", code=2
    )
    assert "a variable is not set here" in text
    sweeps.dfc("train", "digits", *SETTINGS, "--epochs", 1, "--out", tmp_path / "run")
