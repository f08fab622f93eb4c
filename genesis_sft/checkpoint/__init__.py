"""Model folders: read from elsewhere, checked, given the control tokens of ChatML."""
