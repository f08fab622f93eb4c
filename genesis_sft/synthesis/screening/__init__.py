"""What a written conversation must pass before it is kept, and how varied those are that were kept.

::

    candidates ──> one by one: format, length, side, leaks, language, personal data
               ──> among all: evaluation documents, near duplicates, openings ──> verdicts ──> diversity
"""
