"""What comes out: conversations, rejects, the data card."""
