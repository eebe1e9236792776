#!/bin/sh
# How fast dreams step on one GPU; see benchmarks/README.md.
. "$(dirname "$0")/gpu_launch.sh"
