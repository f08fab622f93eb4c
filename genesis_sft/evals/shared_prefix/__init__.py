"""Requests that begin alike share the computation of their beginning."""
