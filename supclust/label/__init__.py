"""The practitioner's tool: which of one's own images to label next, round after round.

The command `supclust label` comes in by `labeling.run`, notebook 08 by `embeddings`.
"""
