"""Conversations: typed, read from the formats that data sets use, mixed and accounted for."""
