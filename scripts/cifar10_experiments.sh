#!/usr/bin/env bash
# The CIFAR-10 experiments of docs/results.md: all attention variants under three seeds, from scratch (with softmax attention
# widened to DnA's parameters) and fine-tuned from DINOv2-small.
# usage: scripts/cifar10_experiments.sh full|reduced CIFAR10 WEIGHTS OUT [KEY VALUE ...]
#   full     50,000 images, 100 epochs of a ViT-Ti with patches of 4 pixels; 10 epochs of DINOv2-small at 84 pixels. For a GPU.
#   reduced  smaller models, fewer images and epochs: about two hours on one CPU core.
#   CIFAR10  folder of parquet files, or a name on the Hub; WEIGHTS: folder or name; OUT: folder of the runs
# Further words are overrides for all runs, e.g. --dataloader_num_workers 12 --bf16 true
# Repeat the command to go on with what was stopped. PARTS="scratch" or PARTS="finetuned" runs one of the two.
# PYTHON is the interpreter (default: python). It needs torch, transformers and accelerate; where there is no network, WHEELS names a
# folder with wheels of what else it lacks, and they are installed into it:
#   pip download -d wheels --only-binary :all: --python-version 3.12 --platform manylinux_2_28_x86_64 datasets evaluate av
set -euo pipefail
if (($# < 4)); then
    sed -n '2,14s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
mode=$1 dataset=$2 weights=$3 out=$4
shift 4
here=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python}
if [[ -n ${WHEELS:-} ]]; then
    "$python" -m pip --disable-pip-version-check -q install --no-index --find-links "$WHEELS" datasets evaluate av
fi
export PYTHONPATH=$here/src${PYTHONPATH:+:$PYTHONPATH}

variants=softmax,dna,dna_shared_value,differential,cog
case $mode in
    full)
        scratch=(--max_train_samples null)
        finetuned=(--max_train_samples null --max_eval_samples null --num_train_epochs 10 --per_device_train_batch_size 100)
        ;;
    reduced)
        scratch=(--max_train_samples 10000 --num_train_epochs 15 --patch_size 8 --hidden_size 96 --num_hidden_layers 4
            --num_attention_heads 4 --intermediate_size 192 --drop_path_rate 0 --mixup_alpha 0 --cutmix_alpha 0
            --label_smoothing_factor 0 --crop_scale "[0.8, 1.0]" --per_device_train_batch_size 64)
        finetuned=(--max_train_samples 1500 --num_train_epochs 2 --save_strategy no --eval_strategy no)
        ;;
    *)
        echo "$0: the first word is full or reduced, not '$mode'." >&2
        exit 2
        ;;
esac
[[ $mode == reduced ]] && size=56 || size=84

for part in ${PARTS:-scratch finetuned}; do
    if [[ $part == scratch ]]; then
        "$python" -m dna_hf compare vit_tiny_cifar10 --variants $variants --seeds 0,1,2 --param-matched \
            --output_dir "$out/scratch" --dataset "$dataset" "${scratch[@]}" "$@"
    else
        "$python" -m dna_hf compare dinov2_small_cifar10 --variants $variants --seeds 0,1,2 \
            --output_dir "$out/finetuned" --dataset "$dataset" --checkpoint "$weights" --image_size $size "${finetuned[@]}" "$@"
    fi
done
