"""The practitioner's tool: which of one's own images to label next, round after round.

The command `supclust label` and notebook 08 come in by `labeling.run`, which checks, reads the source, embeds, picks and writes.
"""
