"""The mixture: which conversations of which sources are trained on, as an index over their tokens; and the ledger."""
