"""What is seen of a run: metrics, held-out losses, health, alarms, curves, trackers."""
