"""The metrics table of a run: one row for every (image, variant), readable while the run is writing it."""
