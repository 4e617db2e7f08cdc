"""Coding z with bits-back: the images of a pack, each paid for by those before it."""
