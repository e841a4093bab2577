#!/bin/sh
# Compares learning methods on MNIST, one epoch each from the same seed, with the published hyperparameters.
#   scripts/compare_mnist.sh [options of `dfc compare`]      e.g. --epochs 2 --threads 2 --out runs/mnist
# Needs `dfc` on the PATH. The MNIST files are looked for in DFC_DATA_DIR, then in the user's cache, else downloaded.
set -eu

exec dfc compare \
    mnist-bp \
    mnist-dfa \
    mnist-dfc-ssa \
    mnist-dfc-ss+training.method=dfc-ss-newton \
    mnist-dfc \
    strong-mnist-two-phase \
    strong-mnist-single-phase \
    --seed 42 --epochs 1 --dtype float32 "$@"
