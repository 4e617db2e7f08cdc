"""The driver of a run: workers on a Ray cluster, what they are to do next, and when to stop."""
