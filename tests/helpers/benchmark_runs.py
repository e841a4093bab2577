"""Quick runs of the benchmark scripts."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "scripts"


def quick(name, folder, *arguments):
    """Run a script in its quick form; returns (standard output, its file's content)."""
    file = folder / f"{name}.json"
    command = [sys.executable, SCRIPTS / f"{name}.py", "--quick", "--json", file, *arguments]
    done = subprocess.run([*map(str, command)], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    content = json.loads(file.read_text(encoding="utf-8"))
    assert content["benchmark"] == name and content["options"]["quick"]
    assert content["environment"]["packages"]["numba"] and content["environment"]["machine"]["processor"]
    return done.stdout, content
