"""Training of the codec's models, at any rate and of either kind, on one CPU or many GPUs."""
