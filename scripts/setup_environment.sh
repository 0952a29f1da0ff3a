# Sourced by quickstart.sh and test.sh: makes a fresh virtual environment and installs dna-hf with the tested versions.
# usage: fresh_environment FOLDER REQUIREMENT...

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
    local pip=("$folder/bin/python" -m pip --disable-pip-version-check -qq)
    local torch
    torch=$(grep '^torch==' constraints.txt)
    if command -v nvidia-smi >/dev/null 2>&1; then
        "${pip[@]}" install "$torch"
    else
        # the index of CPU builds saves gigabytes of CUDA libraries; a build "+cpu" wins over the same version without
        "${pip[@]}" install --retries 1 --extra-index-url https://download.pytorch.org/whl/cpu "$torch"
    fi
    "${pip[@]}" install -c constraints.txt "$@"
}
