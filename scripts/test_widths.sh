#!/bin/sh
# Runs the tests of the kernels once for each vector width that this processor supports: 64 bytes (AVX-512),
# 32 (AVX2) and 16 (SSE2, NEON). PYTHON is the interpreter, .venv-test by default. Arguments are handed to pytest.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-}
if [ -z "$python" ]; then
    . scripts/environment.sh
    prepare .venv-test '[test]'
    python=.venv-test/bin/python
fi

run() {
    name=$1
    shift
    cpu=${1:-}
    features=${2:-}
    if [ -n "$cpu" ]; then
        export NUMBA_CPU_NAME="$cpu" NUMBA_CPU_FEATURES="$features"
    else
        unset NUMBA_CPU_NAME NUMBA_CPU_FEATURES
    fi
    width=$("$python" -c 'from dfc_numba.kernels.simd import REGISTER_BYTES; print(REGISTER_BYTES)')
    echo "== $name: vectors of $width bytes"
    # shellcheck disable=SC2086 (several arguments)
    "$python" -m pytest -q tests/kernels $arguments || failed="$failed $name"
}

arguments=$*
failed=
has() { grep -m 1 '^flags' /proc/cpuinfo 2>/dev/null | grep -qw "$1"; }
run "this processor"
if has avx512f; then
    run AVX2 haswell +avx2,+fma
fi
if has avx2; then
    run SSE2 x86-64 +sse2
fi
if [ -n "$failed" ]; then
    echo "failed:$failed" >&2
    exit 1
fi
