"""What it costs: the price table, and the forecast."""
