"""A tiny world in the shape of Genesis: a made-up language, and somebody else's training code that learns it."""
