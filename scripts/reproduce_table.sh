#!/bin/sh
# Re-measures the published tables: every cell with its published configuration at its published length.
#   scripts/reproduce_table.sh [--seeds N] [--only TASK,METHOD] [--epochs N] [--on ENGINE] [--collect]
# Runs go on from where an earlier call was interrupted; finished ones, here or kept in results/, are never computed again. They
# use an installation of one commit ($DFC_COMMIT; the commit that was checked out at the first call if unset) in a separate
# environment, and lie with it in $DFC_REPRODUCTION (default: ~/.local/share/dfc-numba/reproduction), so that work on the checkout
# does not reach them. What the finished runs give is left in results/: table.csv, table.md, curves.png, and of each run
# config.toml, metrics.csv and environment.json. --collect starts nothing. The data are looked for in DFC_DATA_DIR.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
folder=${DFC_REPRODUCTION:-$HOME/.local/share/dfc-numba/reproduction}
mkdir -p "$folder"

if [ ! -x "$folder/environment/bin/dfc" ]; then
    commit=$(git -C "$here" rev-parse "${DFC_COMMIT:-HEAD}^{commit}")
    echo "installing commit $commit into $folder/environment ..." >&2
    rm -rf "$folder/source" "$folder/environment"
    mkdir -p "$folder/source"
    git -C "$here" archive "$commit" | tar -x -C "$folder/source"
    "${PYTHON:-python3}" -m venv "$folder/environment"
    "$folder/environment/bin/python" -m pip install --quiet --disable-pip-version-check "$folder/source[plot]"
    echo "$commit" >"$folder/commit.txt"
fi
# out of the checkout, whose folders kernels/ and data/ would stand before those that are installed
cd "$folder"
exec "$folder/environment/bin/python" "$here/scripts/reproduce_table.py" --folder "$folder" --results "$here/results" "$@"
