"""Makes tests/golden/gifs: small GIF files of every kind, and the size and SHA-256 of the RGB bytes that Pillow reads from each.

    python tests/reference/make_gifs.py --out tests/golden/gifs
    python tests/reference/make_gifs.py --random 300 --program target/debug/examples/decode_pictures [--seed 1]

The second form draws random ones and compares what the program prints with Pillow: not one byte may differ. Needs pillow 13.
The files are written here, code by code, by Appendix F of the GIF 89a specification.
"""

import random
import struct
from functools import partial

import goldens_of_pillow

CODES = 4096


def blocks(data, length=255):
    return b"".join(bytes([len(part := data[at : at + length])]) + part for at in range(0, len(data), length)) + b"\0"


def lzw(indices, bits, clears="full", ended=True):
    """LZW codes of GIF. `clears` says when the table is emptied: "full", "never", "often" or "twice" at a time."""
    clear = 1 << bits
    out, held, width, table = bytearray(), 0, bits + 1, {}
    count = 0

    def put(code):
        nonlocal held, count
        held |= code << count
        count += width
        while count >= 8:
            out.append(held & 255)
            held, count = held >> 8, count - 8

    def empty():
        nonlocal width
        put(clear)
        table.clear()
        table.update({(index,): index for index in range(clear)})
        width = bits + 1

    empty()
    text, following, since = (), clear + 2, 0
    for index in indices:
        if text + (index,) in table:
            text += (index,)
            continue
        put(table[text])
        since += 1
        if following < CODES:
            table[text + (index,)] = following
            following += 1
            if following > 1 << width and width < 12:
                width += 1
        text = (index,)
        if following == CODES and clears == "full" or clears in ("often", "twice") and since % 7 == 0:
            empty()
            if clears == "twice":
                empty()
            following = clear + 2
    if text:
        put(table[text])
        if following < CODES and following + 1 > 1 << width and width < 12:
            width += 1
    if ended:
        put(clear + 1)
    if count:
        out.append(held & 255)
    return bytes([bits]) + blocks(bytes(out))


def in_passes(rows):
    return [row for first, step in [(0, 8), (4, 8), (2, 4), (1, 2)] for row in rows[first::step]]


def palette(kind, bits, draw):
    """Colours, and how many bits their number has."""
    if kind == "none":
        return b"", 0
    if kind == "grey":
        return bytes(level for level in range(1 << bits) for _ in range(3)), bits
    return bytes(draw.randrange(256) for _ in range(3 << bits)), bits


def table_flags(colours, bits):
    return 128 | bits - 1 if colours else 0


def gif(
    draw, size, bits=3, shared="colours", local="none", place=(0, 0), screen=None, interlaced=False, transparent=None,
    flat=False, extensions=0, junk=0, table_bits=None, cut=None, shown=None, second=False, **codes,
):
    """A file of one frame whose pixels are random. `shown` is how many of the pixels the codes have."""
    width, height = size
    rows = [[0 if flat else draw.randrange(min(1 << bits, 256)) for _ in range(width)] for _ in range(height)]
    indices = [index for row in (in_passes(rows) if interlaced else rows) for index in row]
    table_bits = table_bits or min(bits, 8)
    colours, shared_bits = palette(shared, table_bits, draw)
    own, own_bits = palette(local, table_bits, draw)
    screen = screen or (place[0] + width, place[1] + height)
    parts = [b"GIF89a", struct.pack("<HHBBB", *screen, table_flags(colours, shared_bits), 1, 0), colours]
    if extensions > 0:
        parts.append(b"!\xfe" + blocks(b"a comment that is longer than its blocks", 9))
    if extensions > 1:
        parts.append(b"!\xff" + blocks(b"XMP DataXMP" + b'<x tiff:Orientation="6"/>', 11))
    if transparent is not None:
        parts.append(b"!\xf9\x04" + bytes([1, 0, 0, transparent]) + b"\0")
    parts.append(bytes(junk))
    flags = table_flags(own, own_bits) | 64 * interlaced
    frame = b"," + struct.pack("<HHHHB", *place, *size, flags) + own
    parts += [frame, lzw(indices[:shown], bits, **codes)]
    if second:
        parts += [frame, lzw([0] * len(indices), bits)]
    data = b"".join(parts) + b";"
    return data[:cut]


def random_file(draw):
    bits = draw.randint(2, 8)
    small = draw.random() < 0.7
    size = (draw.randint(1, 40), draw.randint(1, 40)) if small else (draw.randint(60, 200), draw.randint(60, 200))
    place = draw.choice([(0, 0), (0, 0), (draw.randint(0, 9), draw.randint(0, 9))])
    screen = draw.choice([None, None, (draw.randint(1, 60), draw.randint(1, 60))])
    return gif(
        draw, size, bits, draw.choice(["colours", "colours", "grey", "none"]), draw.choice(["none", "none", "colours", "grey"]),
        place, screen, draw.random() < 0.5, draw.choice([None, draw.randrange(1 << bits)]), draw.random() < 0.3,
        draw.randrange(3), draw.choice([0, 0, 3]), draw.choice([None, draw.randint(1, 8)]),
        clears=draw.choice(["full", "never", "often", "twice"]), ended=draw.random() < 0.9, second=draw.random() < 0.2,
    )


def files():
    """Name -> bytes."""
    draw = random.Random("gif")
    made = {
        "plain": gif(draw, (7, 5)),
        "second": gif(draw, (7, 5), second=True),
        "junk": gif(draw, (7, 5), junk=3),
        "turned": gif(draw, (7, 5), extensions=2, transparent=2),
        "around": gif(draw, (3, 4), place=(2, 1), screen=(8, 7)),
        "around-transparent": gif(draw, (3, 4), place=(2, 1), screen=(8, 7), transparent=5),
        "beyond": gif(draw, (9, 4), place=(4, 3), screen=(5, 5)),
        "no-screen": gif(draw, (4, 4), screen=(0, 0)),
        "local": gif(draw, (7, 5), local="colours"),
        "local-grey": gif(draw, (7, 5), local="grey"),
        "local-only": gif(draw, (7, 5), shared="none", local="colours"),
        "grey": gif(draw, (7, 5), shared="grey", transparent=3),
        "colourless": gif(draw, (7, 5), shared="none"),
        "few-colours": gif(draw, (7, 5), bits=5, table_bits=2),
        "few-greys": gif(draw, (7, 5), bits=5, shared="grey", table_bits=2),
        "transparent-beyond": gif(draw, (7, 5), transparent=200),
        "table-full": gif(draw, (64, 70), bits=8, clears="never", shared="none"),
        "table-emptied": gif(draw, (64, 70), bits=8, shared="none"),
        "no-end": gif(draw, (7, 5), ended=False),
        "no-columns": gif(draw, (0, 5), screen=(7, 5)),
        "no-frame": gif(draw, (7, 5))[:37] + b";",
        "too-few": gif(draw, (7, 5), shown=20),
        "too-few-interlaced": gif(draw, (7, 15), shown=40, interlaced=True),
        "nothing": gif(draw, (7, 5), shown=0),
        "cut": gif(draw, (7, 5), cut=-6),
        "cut-trailer": gif(draw, (7, 5), cut=-1),
        "cut-palette": gif(draw, (7, 5), cut=20),
        "cut-head": gif(draw, (7, 5), cut=9),
    }
    for clears in ["often", "twice"]:
        made[f"clears-{clears}"] = gif(draw, (11, 9), clears=clears)
    for bits in range(1, 13):
        made[f"bits-{bits}"] = gif(draw, (8, 3), bits=bits)
    for size in [(1, 1), (7, 7), (9, 9), (25, 16), (47, 63), (3, 2), (1, 9)]:
        for flat in [False, True]:
            made[f"interlaced-{size[0]}x{size[1]}{'-flat' * flat}"] = gif(draw, size, bits=2, interlaced=True, flat=flat)
    return {f"{name}.gif": data for name, data in made.items()}


if __name__ == "__main__":
    goldens_of_pillow.main(__doc__, ".gif", files, lambda seed: partial(random_file, random.Random(seed)))
