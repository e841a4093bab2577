# Sourced by the other scripts: a virtual environment with this package in it, made or renewed only where needed.
#   prepare FOLDER EXTRAS     e.g. prepare .venv-test '[test]'; the environment's programs are then in FOLDER/bin

oldest="3.10"

# The first Python that is new enough: $PYTHON if set, else those on the PATH.
find_python() {
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10 python}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    found=$("${PYTHON:-python3}" --version 2>&1) || found="no ${PYTHON:-python3}"
    echo "Python $oldest or newer is needed; found: $found." >&2
    echo "Install it from https://www.python.org/downloads, or name one: PYTHON=/path/to/python3 $0" >&2
    return 1
}

# What the installation depends on; it is renewed when this changes.
wanted() {
    echo "$python"
    "$python" --version
    pwd
    echo "$extras"
    cat setup.cfg pyproject.toml
}

prepare() {
    folder=$1
    extras=$2
    python=$(find_python) || exit 1
    stamp=$folder/installed.txt
    if [ -x "$folder/bin/python" ] && [ "$(wanted)" = "$(cat "$stamp" 2>/dev/null)" ]; then
        return
    fi
    echo "installing into $folder with $python ..." >&2
    if ! "$python" -m venv --clear "$folder"; then
        echo "could not make a virtual environment; on Debian and Ubuntu: sudo apt install python3-venv" >&2
        exit 1
    fi
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".$extras" || exit 1
    wanted >"$stamp"
}
