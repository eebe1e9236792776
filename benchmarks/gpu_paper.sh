#!/bin/sh
# The paper's Moving MNIST model and its ablation tables on one GPU, in stages; see benchmarks/README.md.
. "$(dirname "$0")/gpu_launch.sh"
