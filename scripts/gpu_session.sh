#!/usr/bin/env bash
# Everything that needs a GPU, in nine minutes: tests, speed, CIFAR-10, fine-tuning, mixed precision. See docs/gpu.md.
# usage: scripts/gpu_session.sh OUT [PART ...]            run the parts (all: tests speed cifar10 finetune mixed)
#        scripts/gpu_session.sh --pack FOLDER PART ...    gather what has to travel to a machine without a network
# Results are in OUT/PART, a summary in OUT/summary.md, all of it in OUT/results.tar.gz. Repeat the command to go on with what
# was stopped; a part that is done is left alone.
# The environment says: SCALE=full, or tiny for a CPU; DATA=folder of CIFAR-10 in parquet; WEIGHTS=folder of DINOv2-small;
# CHECKPOINTS=folder of what a later call goes on from (OUT/PART/checkpoints); WHEELS=folder of wheels that the machine lacks;
# PYTHON=interpreter.
set -euo pipefail
if (($# == 0)) || [[ $1 == -h || $1 == --help ]]; then
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
here=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH=$here/src${PYTHONPATH:+:$PYTHONPATH}
if [[ $1 == --pack ]]; then
    exec "${PYTHON:-python3}" "$here/scripts/gpu/pack.py" "${@:2}"
fi
exec "${PYTHON:-python3}" "$here/scripts/gpu/session.py" "$@"
