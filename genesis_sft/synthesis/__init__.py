"""Conversations that a language model writes from principles, with nothing lost and nothing paid twice.

::

    constitution/ ──> planning ──> asking ──> writing <──> store ──> screening ──> output
                     (scenarios) (requests)    │  └──> providers
                                               └──> price

``project`` is what a recipe asks for, all of it opened and checked; ``status`` how far it is. ``writing/write.py`` is
the loop, ``asking/chain.py`` what it asks.
"""
