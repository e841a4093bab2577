#!/bin/sh
# Repeats the small search that the preset `digits` was chosen by: learning rates around its own, means over three seeds.
#   scripts/search_digits.sh [options of `dfc compare`]      e.g. --out runs/search
# Needs `dfc` on the PATH; a few minutes on two cores.
set -eu

exec dfc compare \
    digits+optimizer.learning_rate=0.0005 \
    digits+optimizer.learning_rate=0.002 \
    digits \
    digits+optimizer.learning_rate=0.02 \
    digits+target.step=0.02 \
    digits+target.step=0.5 \
    --seeds 3 --epochs 10 "$@"
