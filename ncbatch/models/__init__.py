"""The models that ship with the package, and loading any other by its name."""
