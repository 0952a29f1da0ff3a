#!/usr/bin/env bash
# Sets up a fresh environment, checks style and types, and runs the tests on the newest and the oldest supported
# transformers. Arguments go to pytest, e.g. scripts/test.sh --run-slow
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup_environment.sh

oldest_transformers=5.17.0
oldest_huggingface_hub=1.33.0

echo "== set up .venv-test"
fresh_environment .venv-test ".[dev]"
python=.venv-test/bin/python

echo "== style and types"
$python -m ruff check .
$python -m ruff format --check .
$python -m mypy

# one thread per worker: two workers with two threads each slow each other down many times over
export OMP_NUM_THREADS=1 DNA_HF_REQUIRE_COMMON_TESTS=1

echo "== tests, transformers $($python -c 'import transformers; print(transformers.__version__)')"
$python -m pytest -q -n 2 "$@"

echo "== models and conversion, transformers $oldest_transformers"
# the same packages, with older transformers laid over them
rm -rf .venv-oldest
${PYTHON:-python3} -m venv .venv-oldest
$python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
    >"$(.venv-oldest/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/newest.pth"
.venv-oldest/bin/python -m pip --disable-pip-version-check -qq install \
    "transformers==$oldest_transformers" "huggingface_hub==$oldest_huggingface_hub"
# how videos are decoded, and what is in other people's files, does not depend on transformers
.venv-oldest/bin/python -m pytest -q -n 2 tests/models tests/conversion --ignore tests/models/test_video_decoding.py \
    --ignore tests/conversion/test_authors.py --ignore tests/conversion/test_authors_timesformer.py \
    --ignore tests/conversion/test_timm.py --ignore tests/conversion/test_files.py "$@"
