#!/usr/bin/env bash
# Sets up a fresh environment, checks style and types, and runs the tests on the newest and the oldest supported
# transformers. Arguments go to pytest, e.g. scripts/test.sh --run-slow
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup_environment.sh

oldest_transformers=5.17.0
oldest_huggingface_hub=1.33.0

# The same packages, with older transformers laid over them.
oldest_environment() {
    rm -rf .venv-oldest
    ${PYTHON:-python3} -m venv .venv-oldest
    $python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
        >"$(.venv-oldest/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/newest.pth"
    .venv-oldest/bin/python -m pip --disable-pip-version-check -qq install \
        "transformers==$oldest_transformers" "huggingface_hub==$oldest_huggingface_hub"
}

# run_tests PYTHON [ARGUMENT...]: keeps the last line, which says how many tests passed and were skipped
run_tests() {
    local version
    version=$("$1" -c 'import transformers; print(transformers.__version__)')
    echo "== tests, transformers $version"
    # more workers than processors, for tests wait for other processes; tests beside each other share what they need
    "$1" -m pytest -q -n $(($(nproc) + 1)) --maxprocesses 8 --dist worksteal "${@:2}" | tee "$log"
    summary+=("transformers $version: $(tail -n 1 "$log")")
}

echo "== set up .venv-test"
fresh_environment .venv-test ".[dev]"
python=.venv-test/bin/python
log=$(mktemp)
trap 'rm -f "$log"; jobs -p | xargs -r kill' EXIT
summary=()

echo "== style and types"
oldest_environment &
$python -m ruff check .
$python -m ruff format --check .
$python -m mypy
wait $!

# one thread per worker: two workers with two threads each slow each other down many times over
export OMP_NUM_THREADS=1 DNA_HF_REQUIRE_COMMON_TESTS=1
run_tests $python "$@"
run_tests .venv-oldest/bin/python tests/models tests/conversion -m "not once" "$@"

echo "== passed"
printf '%s\n' "${summary[@]}"
