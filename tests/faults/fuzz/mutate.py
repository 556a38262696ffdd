"""Random changes to bytes: flips, numbers that mean something, pieces moved, cut and joined."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

_NUMBERS: Final = [
    b"\0", b"\xff", b"\x7f", b"\x80", b"\0\0", b"\xff\xff", b"\xff\xff\xff\xff", b"\0\0\0\x80",
    b"\xfe\xff\xff\xff", b"\xff\xff\xff\x7f", b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0",
    b"\xfe\xff\x0d\xe0",
    b"SQ", b"UN", b"OB", b"ZZ", b"-", b"1e999", b"nan", b"\\", b"\x1b$B", b"\xe0\x7f\x10\x00",
]  # fmt: skip
_MOST = 1 << 16


def mutate(chance: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """One to eight changes."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        _change(chance, changed, others)
    return bytes(changed[:_MOST])


def _change(chance: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    if not content:
        content += chance.randbytes(8)
    start = chance.randrange(len(content))
    length = min(chance.choice((1, 2, 4, 8, 64)), len(content) - start)
    kind = chance.randrange(7)
    if kind == 0:
        content[start] ^= 1 << chance.randrange(8)
    elif kind == 1:
        content[start] = chance.randrange(256)
    elif kind == 2:
        number = chance.choice(_NUMBERS)
        content[start : start + len(number)] = number
    elif kind == 3:
        del content[start : start + length]
    elif kind == 4:
        content[start:start] = content[start : start + length]
    elif kind == 5:
        other = chance.choice(others)
        there = chance.randrange(len(other) or 1)
        content[start : start + length] = other[there : there + length]
    else:
        number = chance.choice(_NUMBERS)
        content[start:start] = number
