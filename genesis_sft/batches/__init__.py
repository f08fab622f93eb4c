"""From a token store to micro-batches: order from the seed, packing without padding, collation."""
