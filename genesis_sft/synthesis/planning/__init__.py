"""What conversations are to be about: the constitution read and checked, and a plan of scenarios."""
