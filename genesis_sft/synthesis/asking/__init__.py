"""What is asked next, and what an answer says: one conversation, one request after the other."""
