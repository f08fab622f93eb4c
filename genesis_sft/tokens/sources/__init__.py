"""One store a source: its conversations as ids, made by all cores, kept in the cache, and never made twice."""
