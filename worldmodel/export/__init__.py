"""Worlds for onnxruntime: graphs of a step's parts, and the directory they are written to."""
