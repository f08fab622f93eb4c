"""Every request, answer and dollar, on the disk before it counts."""
