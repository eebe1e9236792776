# Sourced by the other gpu_*.sh: runs the Python script of the same name, and hands it all arguments.
# WHEELS: a folder of unpacked wheels for what this Python lacks. PYTHON: the interpreter. OUT: where results go.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
PYTHONPATH="$here${WHEELS:+:$WHEELS}${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONPATH PYTHONUNBUFFERED=1 TQDM_DISABLE="${TQDM_DISABLE:-1}"
if [ -n "${WHEELS:-}" ] && [ -f "$WHEELS/vizdoom/vizdoom" ]; then # unzipping loses the permission to execute
    chmod +x "$WHEELS/vizdoom/vizdoom" || true
fi
exec "${PYTHON:-python3}" "$here/benchmarks/$(basename "$0" .sh).py" "$@"
