#!/bin/sh
# Runs the test suite with the oldest versions that setup.cfg declares, on the oldest Python that it declares, and with the newest
# ones on the newest Python that is installed. To be run before a release; arguments are handed to pytest.
#   PYTHON_OLDEST, PYTHON_NEWEST   interpreters to take instead;   ONLY=oldest or ONLY=newest   one of the two alone
set -eu
cd "$(dirname "$0")/.."
folder=${VERSIONS_FOLDER:-.venv-versions}

# The first of the interpreters that exists and starts.
first_of() {
    for candidate in "$@"; do
        if [ -n "$candidate" ] && "$candidate" -c '' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "none of these interpreters is installed: $*" >&2
    return 1
}

# The requirements of the package and of its tests, one a line; "oldest" pins each to the least version that is declared.
requirements() {
    "$1" - "$2" <<'PYTHON'
import configparser
import re
import sys

config = configparser.ConfigParser()
config.read("setup.cfg")
lines = config["options"]["install_requires"].split("\n") + config["options.extras_require"]["test"].split("\n")
for line in filter(None, map(str.strip, lines)):
    print(re.sub(r">=([\w.]+)", r"==\1", line, count=1) if sys.argv[1] == "oldest" else line)
PYTHON
}

# The environment of a set of versions, made afresh.
install() {
    "$2" -m venv --clear "$folder/$1"
    requirements "$2" "$1" >"$folder/$1.txt"
    own=$folder/$1/bin/python
    "$own" -m pip install --quiet --disable-pip-version-check --upgrade setuptools wheel
    "$own" -m pip install --quiet --disable-pip-version-check --requirement "$folder/$1.txt"
    "$own" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
    "$own" -m pip check
    echo "--- $1: $("$own" --version), $("$own" -m pip list --format freeze --disable-pip-version-check |
        grep -E '^(numba|numpy|scipy|h5py|pydantic|rich|typer|threadpoolctl)==' | tr '\n' ' ')"
}

tested() {
    name=$1
    shift
    NUMBA_CACHE_DIR=$folder/$name/kernels "$folder/$name/bin/python" -m pytest -p no:cacheprovider "$@" || failed=1
}

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
failed=0
if [ "${ONLY:-oldest}" = oldest ]; then
    install oldest "$(first_of "${PYTHON_OLDEST:-}" python3.10)"
    tested oldest "$@"
fi
if [ "${ONLY:-newest}" = newest ]; then
    install newest "$(first_of "${PYTHON_NEWEST:-}" python3.13 python3.12 python3.11 python3.10)"
    tested newest "$@"
fi
exit $failed
