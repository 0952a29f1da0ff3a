#!/usr/bin/env bash
# The reduced CIFAR-10 experiments of docs/results.md, about two hours on one CPU core: all attention variants under three seeds,
# from scratch (with softmax attention widened to DnA's parameters) and fine-tuned from DINOv2-small. On a GPU the comparison at
# full size is a part of scripts/gpu_session.sh.
# usage: scripts/cifar10_experiments.sh CIFAR10 WEIGHTS OUT [KEY VALUE ...]
#   CIFAR10  folder of parquet files, or a name on the Hub; WEIGHTS: folder or name; OUT: folder of the runs
# Further words are overrides for all runs, e.g. --num_train_epochs 1
# Repeat the command to go on with what was stopped. PARTS="scratch" or PARTS="finetuned" runs one of the two.
# PYTHON is the interpreter (default: python).
set -euo pipefail
if (($# < 3)); then
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
dataset=$1 weights=$2 out=$3
shift 3
here=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python}
export PYTHONPATH=$here/src${PYTHONPATH:+:$PYTHONPATH}

variants=softmax,dna,dna_shared_value,differential,cog
parts=${PARTS:-scratch finetuned}
for part in $parts; do
    if [[ $part != scratch && $part != finetuned ]]; then
        echo "PARTS=$parts: there is no part '$part', only scratch and finetuned." >&2
        exit 2
    fi
done
for part in $parts; do
    if [[ $part == scratch ]]; then
        "$python" -m dna_hf compare vit_tiny_cifar10 --variants $variants --seeds 0,1,2 --param-matched \
            --output_dir "$out/scratch" --dataset "$dataset" --max_train_samples 10000 --num_train_epochs 15 \
            --patch_size 8 --hidden_size 96 --num_hidden_layers 4 --num_attention_heads 4 --intermediate_size 192 \
            --drop_path_rate 0 --mixup_alpha 0 --cutmix_alpha 0 --label_smoothing_factor 0 --crop_scale "[0.8, 1.0]" \
            --per_device_train_batch_size 64 "$@"
    else
        "$python" -m dna_hf compare dinov2_small_cifar10 --variants $variants --seeds 0,1,2 \
            --output_dir "$out/finetuned" --dataset "$dataset" --checkpoint "$weights" --image_size 56 \
            --max_train_samples 1500 --num_train_epochs 2 --save_strategy no --eval_strategy no "$@"
    fi
done
