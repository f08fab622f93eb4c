"""A SentencePiece ``.model`` file becomes a fast tokenizer that gives the same ids, and the proof that it does."""
