"""Plans: what a run encodes, in which units, and what of it has been committed.

A run is a folder in object storage; everything here reads its state from there.
"""
