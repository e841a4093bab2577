#!/bin/sh
# Installs dfc-numba into .venv and trains a DFC network on handwritten digits. Arguments are handed to `dfc train`.
set -eu
cd "$(dirname "$0")/.."
. scripts/environment.sh

prepare .venv ''
.venv/bin/dfc train "$@"
echo
echo "To go on:  . $(pwd)/.venv/bin/activate  and then  dfc presets,  dfc train --help"
