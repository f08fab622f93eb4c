"""Supervised fine-tuning: attention within conversations, loss over trained tokens, a loop that resumes."""
