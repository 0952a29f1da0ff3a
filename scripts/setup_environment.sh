# Sourced by quickstart.sh and test.sh: makes a fresh virtual environment and installs dna-hf with the tested versions.
# usage: fresh_environment FOLDER REQUIREMENT...

cpu_builds=https://download.pytorch.org/whl/cpu

fresh_environment() {
    local folder=$1
    shift
    local python=${PYTHON:-python3}
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
        echo "dna-hf needs Python 3.10 or newer; set PYTHON to one." >&2
        return 1
    }
    rm -rf "$folder"
    "$python" -m venv "$folder"
    python=$folder/bin/python
    # packages are compiled at the end, on all cores
    local install=("$python" -m pip --disable-pip-version-check -qq install --no-compile)
    # what comes with Python 3.10 to 3.12 takes three times as long to resolve the versions
    "${install[@]}" --upgrade pip
    if ! command -v nvidia-smi >/dev/null 2>&1; then
        # builds for the CPU save gigabytes of CUDA libraries; one "+cpu" wins over the same version without
        if "$python" -c "from urllib.request import urlopen; urlopen('$cpu_builds/torch/', timeout=5)" 2>/dev/null; then
            "${install[@]}" --extra-index-url "$cpu_builds" "$(grep '^torch==' constraints.txt)"
        else
            echo "$cpu_builds cannot be reached: torch comes from where pip finds the other packages"
        fi
    fi
    "${install[@]}" -c constraints.txt "$@"
    # not the tests of other packages, which nobody imports; a template that is no Python is left as it is
    "$python" -m compileall -qq -j 0 -x '/tests?/' "$folder/lib" || true
}
