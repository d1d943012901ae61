"""Questions that the paper leaves open, each answered by a table that a notebook shows.

The room imports the core, and `figures` what it draws.
"""
