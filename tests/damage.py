"""Damages files in ways that disks, networks, editors and other programs do: the same by a seed."""

import json
import math
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

Random = random.Random
HEADER = 512  # bytes at the start, where most formats say what they hold
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
EXTREMES += (0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
PNG = b"\x89PNG\r\n\x1a\n"
LOOSE = [None, True, False, -1, 0, 1e308, -1e308, 5e-324, 2**63, 10**400, math.nan, math.inf]
LOOSE += [
    "",
    "x",
    "\0",
    "\udc80",
    "../..",
    "/dev/zero",
    "é" * 300,
    [],
    {},
    [[]],
    [{}],
    [None],
    {"": 1},
]
WORDS = [
    "",
    " ",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "-1",
    "1_000",
    "0x10",
    "١",
    "1,5",
    "=1+1",
    "\0",
    "é",
]
WORDS += ["9" * 400, '"', '"a"b"', "a" * 2000, "None", "\ufeff", "..", "1;2"]


def damage_bytes(data: bytes, rng: Random) -> bytes:
    """Returns data after one to three of the changes in BINARY."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(BINARY)(data, rng) if data else data
    return data


def damage_png(data: bytes, rng: Random) -> bytes:
    """Damages bytes or, in two of three, chunks, whose checksums are right again."""
    chunks = _chunks(data)
    if rng.random() < 1 / 3 or not chunks:
        return damage_bytes(data, rng)
    for _ in range(rng.choice((1, 1, 2))):
        at, change = rng.randrange(len(chunks)), rng.random()
        kind, content = chunks[at]
        if change < 0.6:
            chunks[at] = kind, damage_bytes(content, rng)
        elif change < 0.75:
            chunks.insert(rng.randrange(len(chunks) + 1), rng.choice(chunks))
        elif change < 0.9 and len(chunks) > 1:
            del chunks[at]
        else:
            chunks[at] = rng.choice([k for k, _ in chunks] + [b"zTXt", b"acTL", b"fcTL"]), content
    return PNG + b"".join(
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def damage_json(data: bytes, rng: Random) -> bytes:
    """Changes values, keys and their order or, in one of three, the text."""
    if rng.random() < 1 / 3:
        return damage_text(data, rng)
    lines = data.decode().splitlines() if data.count(b"}\n{") else [data.decode()]  # one a line
    at = rng.randrange(len(lines))
    value = json.loads(lines[at])
    for _ in range(rng.choice((1, 1, 2, 3))):
        value = _change_value(value, rng)
    lines[at] = json.dumps(value)
    return "\n".join(lines).encode()


def damage_table(data: bytes, rng: Random) -> bytes:
    """Changes cells, rows and columns or, in one of three, the text."""
    if rng.random() < 1 / 3:
        return damage_text(data, rng)
    rows = [line.split(",") for line in data.decode().splitlines()]
    for _ in range(rng.choice((1, 1, 2, 3))):
        row = rng.choice(rows)
        change, at = rng.randrange(8), rng.randrange(max(1, len(row)))
        if change < 3 and row:
            row[at] = rng.choice(WORDS)
        elif change == 3 and row:
            del row[at]
        elif change == 4:
            row.insert(at, rng.choice(WORDS))
        elif change == 5:
            rows.insert(rng.randrange(len(rows) + 1), list(row))
        elif change == 6 and len(rows) > 1:
            rows.remove(row)
        else:
            rng.shuffle(row)
    separator, end = rng.choice(",,,,;\t "), rng.choice(["\n", "\n", "\r\n", "\r", "\n\n"])
    return end.join(separator.join(row) for row in rows).encode()


def damage_text(data: bytes, rng: Random) -> bytes:
    """Damages bytes, the encoding, or what a parser counts with: depth and digits."""
    at, change = rng.randrange(len(data) + 1), rng.randrange(8)
    text = data.decode(errors="replace")
    inserted = [b"\0", b"\xff\xfe", b"\xc3", b"9" * 5000, b"[" * 100_000, b'{"a":' * 2000, b'"']
    if change < 3:
        return damage_bytes(data, rng)
    if change < 6:
        return data[:at] + rng.choice(inserted) + data[at:]
    return text.encode(rng.choice(["utf-16", "utf-8-sig", "utf-32", "cp037"]), errors="replace")


def damage_safetensors(data: bytes, rng: Random) -> bytes:
    """Damages bytes or, in half, the header's values, whose length is right again."""
    if rng.random() < 0.5:
        return damage_bytes(data, rng)
    (length,) = struct.unpack("<Q", data[:8])
    header = damage_json(data[8 : 8 + length], rng)
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def _flip_bits(data: bytes, rng: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 4, 32))):
        changed[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _truncate(data: bytes, rng: Random) -> bytes:
    return data[: rng.choice((_place(data, rng), rng.randrange(len(data)), len(data) - 1))]


def _extend(data: bytes, rng: Random) -> bytes:
    return data + rng.choice((b"\0" * 100, data[: rng.randrange(len(data))], rng.randbytes(50)))


def _blank(data: bytes, rng: Random) -> bytes:
    start, end = _block(data, rng)
    return data[:start] + rng.choice((b"\0", b"\xff")) * (end - start) + data[end:]


def _scramble(data: bytes, rng: Random) -> bytes:
    start, end = _block(data, rng)
    return data[:start] + rng.randbytes(end - start) + data[end:]


def _remove(data: bytes, rng: Random) -> bytes:
    start, end = _block(data, rng)
    return data[:start] + data[end:]


def _insert(data: bytes, rng: Random) -> bytes:
    start, end = _block(data, rng)
    block = rng.choice((data[start:end], rng.randbytes(end - start), b"\0" * (end - start)))
    return data[:start] + block + data[start:]


def _move(data: bytes, rng: Random) -> bytes:
    start, end = _block(data, rng)
    rest, at = data[:start] + data[end:], rng.randrange(len(data))
    return rest[:at] + data[start:end] + rest[at:]


def _set_field(data: bytes, rng: Random) -> bytes:
    """Sets a whole number, of 1 to 8 bytes in either order, to an extreme value."""
    size = rng.choice((1, 2, 4, 4, 8))
    value = rng.choice(EXTREMES) & (256**size - 1)
    at = _place(data, rng)
    return data[:at] + value.to_bytes(size, rng.choice(("little", "big"))) + data[at + size :]


BINARY: Sequence[Callable[[bytes, Random], bytes]] = (
    _flip_bits, _truncate, _extend, _blank, _scramble, _remove, _insert, _move, _set_field,
    _set_field,  # twice as often
)  # fmt: skip


def _place(data: bytes, rng: Random) -> int:
    """Returns a place, in half of all cases in the header."""
    return rng.randrange(min(HEADER, len(data)) if rng.random() < 0.5 else len(data))


def _block(data: bytes, rng: Random) -> tuple[int, int]:
    start = _place(data, rng)
    return start, min(len(data), start + rng.choice((1, 2, 4, 16, 64, 512)))


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, at = [], len(PNG)
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : end]))
        at = end + 4
    return chunks


def _change_value(value: Any, rng: Random) -> Any:
    """Returns JSON's value with one place in it changed."""
    is_list = isinstance(value, list)
    inner = range(len(value)) if is_list else list(value) if isinstance(value, dict) else ()
    if not inner or rng.random() < 0.15:
        return rng.choice((rng.choice(LOOSE), rng.choice(LOOSE), [value], {"a": value}, str(value)))
    copied, key, change = value.copy(), rng.choice(list(inner)), rng.random()
    if change < 0.6:
        copied[key] = _change_value(value[key], rng)
    elif change < 0.75:
        del copied[key]
    elif isinstance(value, list):
        copied.insert(key, rng.choice(value) if change < 0.9 else rng.choice(LOOSE))
    elif change < 0.9:
        copied[rng.choice(["", "a", f"{key}2", key.upper()])] = copied.pop(key)
    else:
        copied[key] = value[rng.choice(list(inner))]
    return copied
