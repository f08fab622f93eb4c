"""Several processes as one: how they meet, check their links, and share model and gradient."""
