"""Encoded runs as data sets for PyTorch: `RunDataset`."""

from ncbatch.datasets.run_dataset import RunDataset

__all__ = ["RunDataset"]
