"""Primitives, one a file: an ``init_*`` that makes parameters from a key, and a pure function that applies them."""
