#!/bin/sh
# Prints one figure: the share of lines of the Python layer that a selection of quick tests runs through.
# Kernels are left out, since machine code cannot be traced; so is what tests do in other processes. Tracing the whole suite
# would cost 70 % of its time before Python 3.12. PYTHON is an interpreter with the package, the extra `test` and coverage.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv-test/bin/python}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

if ! "$python" -m coverage run --data-file="$folder/data" --source=dfc_numba,data --omit='*/kernels/*' \
    -m pytest -q -p no:cacheprovider -m "not slow and not timing" \
    tests/data tests/display/test_plotting.py tests/learning/test_evaluation.py tests/package/test_session.py \
    tests/relatives/test_grapes.py tests/runs/test_checkpoint.py tests/runs/test_run_directory.py \
    tests/runs/test_trained.py tests/storage/test_network_file.py tests/storage/test_reading.py tests/support/test_shapes.py \
    >"$folder/log" 2>&1; then
    cat "$folder/log"
    exit 1
fi
figure=$("$python" -m coverage report --data-file="$folder/data" --format=total)
tests=$(sed -n 's/^\([0-9]*\) passed.*/\1/p' "$folder/log")
echo "coverage: $figure % of the lines of the Python layer, by $tests quick tests (see scripts/coverage.sh)"
