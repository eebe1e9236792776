#!/bin/sh
# The paper's clip model on one GPU; see benchmarks/README.md. Arguments go to the Python script.
# WHEELS: a folder of unpacked wheels for what this Python lacks. PYTHON: the interpreter. OUT: where results go.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
PYTHONPATH="$here${WHEELS:+:$WHEELS}${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONPATH PYTHONUNBUFFERED=1 TQDM_DISABLE="${TQDM_DISABLE:-1}"
exec "${PYTHON:-python3}" "$here/benchmarks/gpu_clip_model.py" "$@"
