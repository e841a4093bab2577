#!/bin/sh
# Compares dynamic inversion with backpropagation, feedback alignment, pseudo-backpropagation and its own steady state on
# MNIST, one epoch each from the same seed: first the classification (test error), then the autoencoder (test loss).
#   scripts/compare_inversion.sh [options of `dfc compare`, but --out]      e.g. --epochs 5 --threads 2
# The tables are in runs/inversion-mnist and runs/inversion-autoencoder; those of the regressions come from
# compare_inversion.py. Needs `dfc` on the PATH. The MNIST files are looked for in DFC_DATA_DIR, then in the user's cache,
# else downloaded.
set -eu

for task in mnist autoencoder; do
    dfc compare \
        "inversion-$task-bp" \
        "inversion-$task-fa" \
        "inversion-$task-pbp" \
        "inversion-$task-ndi" \
        "inversion-$task-di" \
        --out "runs/inversion-$task" --seed 42 --epochs 1 "$@"
done
