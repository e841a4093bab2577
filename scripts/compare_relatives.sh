#!/bin/sh
# Compares DFC and its relatives at equal epochs on MNIST, and target propagation on Fashion-MNIST: the tables and the figure of
# docs/relatives.md, with the published hyperparameters of each, which are for longer runs. It takes hours; called again, it goes on.
#   scripts/compare_relatives.sh FOLDER [options of `dfc compare`]      e.g. runs/relatives --threads 2
# Needs `dfc`, and its python3 with matplotlib, on the PATH. The MNIST files are looked for in DFC_DATA_DIR, then in the user's cache, else downloaded.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
folder=${1:?name a folder for the runs}
shift
newton=training.method=dfc-ss-newton
sgd=optimizer.name=sgd+optimizer.momentum=0.0

dfc compare \
    mnist-bp \
    mnist-dfa \
    "mnist-dfc-ss+$newton" \
    "mnist-dfc-ss-fixed+$newton" \
    "mnist-dfc-ss-fixed+$newton+optimizer.modulation=grapes" \
    "mnist-dfc-ss-fixed+$newton+$sgd+optimizer.learning_rate=10.0" \
    "mnist-dfc-ss-fixed+$newton+$sgd+optimizer.learning_rate=18.0" \
    "mnist-dfc-ss-fixed+$newton+$sgd+optimizer.learning_rate=10.0+optimizer.modulation=grapes" \
    tp-mnist-bp \
    tp-mnist-ddtp-linear \
    tp-mnist-ddtp-rhl \
    tp-mnist-dtpdrl \
    tp-mnist-dtp \
    ep-mnist-prototypical \
    ep-mnist-vector-field \
    ep-mnist-hopfield \
    ep-mnist-gaussian \
    lcp-mnist-bp \
    lcp-mnist-di \
    lcp-mnist-kp \
    lcp-mnist-rnn-bp \
    lcp-mnist-rnn-di \
    lcp-mnist-rnn-kp \
    grapes-mnist-bp \
    grapes-mnist-bp+method.form=none \
    grapes-mnist-fa \
    grapes-mnist-dfa \
    lcp-mnist-lf+method.steps=100 \
    lcp-mnist-rnn-lf+method.steps=100 \
    --epochs 2 --out "$folder/mnist" "$@"

dfc compare \
    tp-mnist-bp+data.name=fashion_mnist \
    tp-mnist-ddtp-linear+data.name=fashion_mnist \
    tp-mnist-dtpdrl+data.name=fashion_mnist \
    tp-mnist-dtp+data.name=fashion_mnist \
    tp-mnist-ddtp-rhl+data.name=fashion_mnist \
    --epochs 2 --out "$folder/fashion" "$@"

mkdir -p "$folder/angles"
for run in "$folder"/mnist/*-seed42; do # some have no feedforward pass to compare directions with, and say so
    file="$folder/angles/$(basename "$run").csv"
    [ -e "$file" ] || dfc analyze "$run" --what alignment --samples 128 --out "$file" >/dev/null || [ $? = 2 ]
done

python3 "$here/draw_relatives.py" "$folder" "$folder/relatives.png"
