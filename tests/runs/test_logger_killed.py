"""Killing a logging run at random moments: what was closed is there, and the run goes on to the uninterrupted result.

The work is done by killing.py, which kills forks of itself.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "helpers" / "killing.py"


def begun(folder, seed, kills):
    command = [sys.executable, SCRIPT, folder, seed, kills]
    return subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kills(process):
    """How many there were, and the numbers of records that were there after them."""
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    print(output[output.index("killed ") :])
    return int(re.search(r"killed (\d+) times", output)[1]), int(re.search(r"of records: (\d+)", output)[1])


def test_a_run_that_is_killed_loses_nothing(tmp_path):
    assert kills(begun(tmp_path, 1, 1))[0] == 1


@pytest.mark.slow
def test_runs_that_are_killed_again_and_again_lose_nothing(tmp_path):
    folders = [tmp_path / name for name in ("one", "other")]
    for folder in folders:
        folder.mkdir()
    both = [kills(process) for process in [begun(folder, seed, 25) for seed, folder in enumerate(folders)]]
    assert sum(count for count, _ in both) == 50 and all(different > 5 for _, different in both)
