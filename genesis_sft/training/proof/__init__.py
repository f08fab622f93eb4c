"""The certificate: training's own functions against the textbook, on the run's first batch."""
