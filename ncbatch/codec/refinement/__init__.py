"""Refinement: the latents of an image, optimised under a relaxation of their rounding."""
