"""Evaluation of finished runs: curves, BD-rates, the HTML page."""
