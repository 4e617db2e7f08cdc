"""Measurements: each of one thing, or of two things in turns within one process."""
