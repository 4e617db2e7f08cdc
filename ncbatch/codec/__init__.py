"""Images to bytes and back: the mean-scale hyperprior, its refinement and its exact coding.

Nothing in this room knows about stores, runs or Ray.
"""
