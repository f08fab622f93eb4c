"""Which conventions a stored model was trained by: candidates, what they cost, a search over them, and its words."""
