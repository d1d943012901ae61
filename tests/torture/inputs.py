"""To come."""

CASES = []
