#!/bin/sh
# Installs dfc-numba into .venv-test and runs the test suite; --all includes the slow tests. Arguments are handed to pytest.
set -eu
cd "$(dirname "$0")/.."
. scripts/environment.sh

prepare .venv-test '[test]'
exec .venv-test/bin/python -m pytest "$@"
