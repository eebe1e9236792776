#!/bin/sh
# One world from recordings to its evaluation on one GPU; see benchmarks/README.md. Arguments go to the Python script.
# WHEELS: a folder of unpacked wheels for what this Python lacks. PYTHON: the interpreter. OUT: where results go.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
PYTHONPATH="$here${WHEELS:+:$WHEELS}${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONPATH PYTHONUNBUFFERED=1 TQDM_DISABLE="${TQDM_DISABLE:-1}"
if [ -n "${WHEELS:-}" ] && [ -f "$WHEELS/vizdoom/vizdoom" ]; then # unzipping loses the right to run
    chmod +x "$WHEELS/vizdoom/vizdoom" || true
fi
exec "${PYTHON:-python3}" "$here/benchmarks/gpu_worlds.py" "$@"
