"""Metrics for Prometheus: counted in this process, and handed over by a thread to whoever exports them."""
