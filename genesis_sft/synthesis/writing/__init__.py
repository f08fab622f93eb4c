"""The plan carried out: workers or batches, pace, stops."""
