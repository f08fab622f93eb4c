"""ChatML token ids and trained spans, out of one function, and their store on disk."""
