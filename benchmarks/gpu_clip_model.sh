#!/bin/sh
# The paper's clip model on one GPU; see benchmarks/README.md.
. "$(dirname "$0")/gpu_launch.sh"
