"""Meaning as vectors: a protocol, a model by ONNX, and what installs the one that is there."""
