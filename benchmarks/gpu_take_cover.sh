#!/bin/sh
# Policies that learn only in dreams of take-cover, on one GPU; see benchmarks/README.md.
. "$(dirname "$0")/gpu_launch.sh"
