"""Encoded runs as data sets of Ray Data: `read_run`."""

from ncbatch.ray_data.reading import read_run

__all__ = ["read_run"]
