"""Checkpoints that ship with the package, as safetensors files."""
