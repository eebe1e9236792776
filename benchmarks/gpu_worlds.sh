#!/bin/sh
# One world from recordings to its evaluation on one GPU; see benchmarks/README.md.
. "$(dirname "$0")/gpu_launch.sh"
