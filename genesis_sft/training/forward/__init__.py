"""The forward pass and its loss: attention within conversations, the head in chunks, what is recomputed or compiled."""
