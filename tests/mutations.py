"""Damage to files, for tests that nothing in a file can do more than be refused."""

import random


def mutated(content: bytes, rng: random.Random) -> bytes:
    """A few random changes: bits flipped, ends cut, bytes put in, slices that come twice or not at all."""
    for _ in range(rng.randint(1, 4)):
        start, end = sorted(rng.randint(0, len(content)) for _ in range(2))
        kind = rng.choice(["flip", "flip", "flip", "cut", "insert", "repeat", "drop"])
        if kind == "flip" and content:
            place = rng.randrange(len(content))
            content = content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]
        elif kind == "cut":
            content = content[:end]
        elif kind == "insert":
            content = content[:start] + rng.randbytes(rng.randint(1, 8)) + content[start:]
        elif kind == "repeat":
            content = content[:end] + content[start:]
        elif kind == "drop":
            content = content[:start] + content[min(end, start + 9) :]
    return content
