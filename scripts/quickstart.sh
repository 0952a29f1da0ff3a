#!/usr/bin/env bash
# From nothing to a trained DnA vision transformer: sets up .venv, trains on the embedded images, evaluates, and loads the
# saved model through transformers' Auto class in a process without dna-hf. Arguments are overrides of the recipe,
# e.g. scripts/quickstart.sh --attention_variant softmax --output_dir runs/softmax
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup_environment.sh

output= dataset=fashion-mnist-mini
arguments=("$@")
for ((i = 0; i < ${#arguments[@]}; i++)); do
    case ${arguments[i]} in
        --output[-_]dir) output=${arguments[i + 1]:-} ;;
        --output[-_]dir=*) output=${arguments[i]#*=} ;;
        --dataset) dataset=${arguments[i + 1]:-} ;;
        --dataset=*) dataset=${arguments[i]#*=} ;;
    esac
done
if [[ -z $output ]]; then
    output=runs/vit_tiny_fashion_mnist
    set -- "$@" --output_dir "$output"
fi

echo "== 1/4 set up .venv"
fresh_environment .venv .

echo "== 2/4 train on $dataset"
.venv/bin/dna-hf train vit_tiny_fashion_mnist "$@"

echo "== 3/4 evaluate the saved checkpoint"
.venv/bin/dna-hf evaluate "$output" --dataset "$dataset"

echo "== 4/4 classify a picture with transformers alone, without dna-hf"
.venv/bin/python scripts/export_picture.py --dataset "$dataset" "$output/picture.png"
.venv/bin/python scripts/predict_published.py "$output" "$output/picture.png"
