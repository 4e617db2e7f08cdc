"""Runs: what is to be encoded, in which units, by whom, and what has been committed.

A run is a folder in object storage; everything here reads its state from there and writes it back.
"""
