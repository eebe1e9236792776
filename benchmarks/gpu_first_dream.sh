#!/bin/sh
# From nothing to an evaluated dream of take-cover on one GPU; see benchmarks/README.md.
. "$(dirname "$0")/gpu_launch.sh"
