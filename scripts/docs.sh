#!/bin/sh
# Builds the documentation site into build/docs, its gallery executed, warnings and broken internal links as errors.
# Arguments are handed to sphinx-build.
set -eu
cd "$(dirname "$0")/.."
. scripts/environment.sh

prepare .venv-docs '[docs]'
.venv-docs/bin/python -m sphinx --fail-on-warning --keep-going -b html docs build/docs "$@"
echo "open build/docs/index.html"
