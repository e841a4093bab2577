#!/bin/sh
# Installs dfc-numba into .venv-test and runs the test suite, on up to four processors; --all includes the slow tests.
# Arguments are handed to pytest.
set -eu
cd "$(dirname "$0")/.."
. scripts/environment.sh

prepare .venv-test '[test]'
exec .venv-test/bin/python -m pytest --numprocesses auto --maxprocesses 4 "$@"
