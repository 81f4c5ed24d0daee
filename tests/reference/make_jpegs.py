"""Makes tests/golden/jpegs: small JPEGs of every kind, and the size and SHA-256 of the RGB bytes that Pillow reads from each.

    python tests/reference/make_jpegs.py --out tests/golden/jpegs
    python tests/reference/make_jpegs.py --random 300 --program target/debug/examples/decode_pictures [--seed 1]

The second form draws random ones, damaged ones among them, and compares what the program prints with Pillow: not one byte may
differ. Pillow refuses some damaged files that the program decodes, and vice versa; only the former is tolerated, and
counted. Needs pillow 13 and numpy.

What Pillow does not write (other sampling factors, scans of one component, 16-bit quantisation tables, conflicting markers) is
coded here from random coefficients with the Huffman tables of a file of Pillow's: ITU-T T.81.
"""

import io
from functools import partial

import goldens_of_pillow
import numpy as np
from PIL import Image

EOI = b"\xff\xd9"


def encoded(image, **options):
    data = io.BytesIO()
    image.save(data, "JPEG", **options)
    return data.getvalue()


def drawn(rng, width, height):
    """Smooth colours with some noise: every coefficient occurs."""
    coarse = rng.integers(0, 256, (max(1, height // 8), max(1, width // 8), 3), np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.BICUBIC)).astype(int)
    noise = rng.integers(-12, 13, (height, width, 3))
    return Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8))


def segment(code, payload):
    return bytes([0xFF, code]) + (len(payload) + 2).to_bytes(2, "big") + payload


def segments(jpeg):
    """(marker, payload) of each segment before the first scan."""
    at = 2
    while jpeg[at + 1] != 0xDA:
        length = int.from_bytes(jpeg[at + 2 : at + 4], "big")
        yield jpeg[at + 1], jpeg[at + 4 : at + 2 + length]
        at += 2 + length


def huffman_tables():
    """The standard's tables, from a file that Pillow writes with them: the segments, and class and number -> symbol -> code."""
    payloads = [payload for code, payload in segments(encoded(Image.new("RGB", (8, 8)))) if code == 0xC4]
    tables = {}
    for payload in payloads:
        at = 0
        while at < len(payload):
            number, counts, at = payload[at], payload[at + 1 : at + 17], at + 17
            code, codes = 0, {}
            for length, count in enumerate(counts, 1):
                for _ in range(count):
                    codes[payload[at]] = f"{code:0{length}b}"
                    code, at = code + 1, at + 1
                code <<= 1
            tables[number] = codes
    return b"".join(segment(0xC4, payload) for payload in payloads), tables


HUFFMAN, CODES = huffman_tables()


def magnitude(value):
    size = int(abs(value)).bit_length()
    return size, format(value if value > 0 else value + (1 << size) - 1, f"0{size}b") if size else ""


def coded_block(rng, last_dc, table, band):
    """Bits of a random block, of its DC value, of the rest, or of all; and its DC value."""
    dc = int(np.clip(last_dc + rng.integers(-60, 61), -500, 500))
    size, bits = magnitude(dc - last_dc)
    out = "" if band == "ac" else CODES[table][size] + bits
    if band == "dc":
        return out, dc
    ac, at = CODES[0x10 | table], 1
    for _ in range(int(rng.integers(0, 4))):
        run, value = int(rng.integers(0, 16)), int(rng.integers(1, 30)) * (1 if rng.integers(2) else -1)
        if at + run > 63:
            break
        size, bits = magnitude(value)
        out += ac[run << 4 | size] + bits
        at += run + 1
    return out + (ac[0] if at < 64 else ""), dc


def entropy_coded(bits):
    bits += "1" * (-len(bits) % 8)
    return int("1" + bits, 2).to_bytes(len(bits) // 8 + 1, "big")[1:].replace(b"\xff", b"\xff\x00") if bits else b""


def scan(rng, size, factors, members, ids, restart, band="all"):
    """A scan header and its data. `band`: "dc" or "ac" in a progressive file."""
    (width, height), most = size, (max(f[0] for f in factors), max(f[1] for f in factors))
    up = lambda a, b: -(-a // b)
    if len(members) == 1:
        own = factors[members[0]]
        mcus = up(width * own[0], most[0] * 8) * up(height * own[1], most[1] * 8)
        blocks = [(0, members[0])]
    else:
        mcus = up(width, most[0] * 8) * up(height, most[1] * 8)
        blocks = [(at, m) for at, m in enumerate(members) for _ in range(factors[m][0] * factors[m][1])]
    header = bytes([len(members)]) + b"".join(bytes([ids[m], 0x11 if 0 < m < 3 else 0]) for m in members)
    header += {"all": b"\0\x3f\0", "dc": b"\0\0\0", "ac": b"\1\x3f\0"}[band]
    data, bits, last = segment(0xDA, header), "", [0] * len(members)
    for mcu in range(mcus):
        if restart and mcu and mcu % restart == 0:
            data += entropy_coded(bits) + bytes([0xFF, 0xD0 + (mcu // restart - 1) % 8])
            bits, last = "", [0] * len(members)
        for at, member in blocks:
            block, last[at] = coded_block(rng, last[at], int(0 < member < 3), band)
            bits += block
    return data + entropy_coded(bits)


JFIF = segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")


def adobe(transform):
    return segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([transform]))


def coded(rng, size, factors, ids=(1, 2, 3, 4), markers=b"", scans=None, restart=0, wide=False, frame=0xC0):
    """A JPEG of random coefficients. `scans`: the components of each scan, in a progressive file (`frame` 0xC2) each with its
    band. `wide`: 16-bit quantisation tables."""
    count = len(factors)
    tables = b""
    for number in range(2):
        steps = rng.integers(1, 300 if wide else 40, 64)
        tables += bytes([(0x10 if wide else 0) | number]) + steps.astype(">u2" if wide else np.uint8).tobytes()
    sof = bytes([8]) + size[1].to_bytes(2, "big") + size[0].to_bytes(2, "big") + bytes([count])
    sof += b"".join(bytes([ids[c], factors[c][0] << 4 | factors[c][1], int(0 < c < 3)]) for c in range(count))
    out = b"\xff\xd8" + markers + segment(0xDB, tables) + segment(frame, sof) + HUFFMAN
    if restart:
        out += segment(0xDD, restart.to_bytes(2, "big"))
    for members in scans or [list(range(count))]:
        members, band = members if frame == 0xC2 else (members, "all")
        out += scan(rng, size, factors, members, ids, restart, band)
    return out + EOI


def spread(luma):
    return [luma, (1, 1), (1, 1)]


FACTORS = {
    "444": spread((1, 1)),
    "422": spread((2, 1)),
    "420": spread((2, 2)),
    "440": spread((1, 2)),
    "411": spread((4, 1)),
    "410": spread((4, 2)),
    "441": spread((1, 4)),
    "412": spread((2, 4)),
    "311": spread((3, 1)),
    "mixed": [(2, 2), (2, 1), (1, 2)],
    "large-chroma": [(1, 1), (2, 2), (2, 1)],
    "all-22": [(2, 2), (1, 1), (2, 2)],
    "half-of-four": [(4, 1), (2, 1), (1, 1)],
}


# The scans of a progressive file, each component by itself or, last, the DC values together.
APART = [([component], "dc") for component in range(3)]
BANDS = [([component], "ac") for component in range(3)]
PROGRESSIVE = [*APART, ([0, 1, 2], "dc"), *BANDS]


def missing_scans():
    """Progressive files some of whose AC coefficients never come."""
    together = PROGRESSIVE[3]
    return [[together], [together, BANDS[0]], [*APART, BANDS[2], BANDS[1]], [*APART, BANDS[0]]]


def cut_after_scan(jpeg, count):
    """The first scans of a file that has several."""
    at = -1
    for _ in range(count + 1):
        at = jpeg.index(b"\xff\xda", at + 1)
    # Tables of the omitted scan may stay.
    return jpeg[:at] + EOI


def without(jpeg, code):
    kept = b"".join(segment(c, payload) for c, payload in segments(jpeg) if c != code)
    return b"\xff\xd8" + kept + jpeg[jpeg.index(b"\xff\xda") :]


def files():
    """File name -> bytes."""
    rng = np.random.default_rng(1)
    rgb = drawn(rng, 35, 27)
    out = {}
    for name in ["4:4:4", "4:2:2", "4:2:0"]:
        for kind, options in {"plain": {}, "progressive": {"progressive": True}, "optimised": {"optimize": True}}.items():
            out[f"{name.replace(':', '')}-{kind}"] = encoded(rgb, quality=80, subsampling=name, **options)
    for quality in [1, 10, 30, 60, 95, 100]:
        out[f"quality-{quality}"] = encoded(rgb.crop((0, 0, 24, 24)), quality=quality)
    for interval in [1, 2, 7]:
        out[f"restart-{interval}"] = encoded(rgb, quality=60, restart_marker_blocks=interval)
    out["restart-progressive"] = encoded(rgb, quality=60, restart_marker_blocks=2, progressive=True)
    for mode in ["L", "CMYK"]:
        for progressive in [False, True]:
            name = f"{mode.lower()}{'-progressive' if progressive else ''}"
            out[name] = encoded(rgb.convert(mode), quality=80, progressive=progressive)
    out["rgb"] = encoded(rgb, quality=80, keep_rgb=True)
    for width, height in [(1, 1), (2, 2), (3, 1), (1, 3), (5, 4), (6, 17), (17, 16), (16, 33)]:
        for name in ["4:2:2", "4:2:0"]:
            out[f"{name.replace(':', '')}-{width}x{height}"] = encoded(drawn(rng, width, height), quality=80, subsampling=name)
    progressive = encoded(rgb, quality=70, progressive=True)
    for count in [1, 2, 4, 6]:
        out[f"first-scans-{count}"] = cut_after_scan(progressive, count)
    out["no-huffman-tables"] = without(out["422-plain"], 0xC4)
    for name, factors in FACTORS.items():
        out[f"factors-{name}"] = coded(rng, (41, 37), factors)
        out[f"factors-{name}-apart"] = coded(rng, (39, 35), factors, scans=[[2], [0], [1]], restart=3)
        out[f"factors-{name}-progressive"] = coded(rng, (39, 35), factors, scans=PROGRESSIVE[3:], frame=0xC2)
    for at, scans in enumerate(missing_scans()):
        out[f"missing-scans-{at}"] = coded(rng, (37, 35), FACTORS["420"], scans=scans, frame=0xC2)
    out["factors-grey-22"] = coded(rng, (21, 19), [(2, 2)])
    out["two-scans"] = coded(rng, (37, 19), FACTORS["420"], scans=[[0], [1, 2]])
    out["extended"] = coded(rng, (21, 19), FACTORS["420"], frame=0xC1)
    out["wide-tables"] = coded(rng, (21, 19), FACTORS["420"], wide=True)
    out["wide-tables-extended"] = coded(rng, (21, 19), FACTORS["422"], wide=True, frame=0xC1)
    three, four = [(1, 1)] * 3, [(1, 1)] * 4
    for name, markers in {
        "none": b"",
        "jfif": JFIF,
        "adobe-0": adobe(0),
        "adobe-1": adobe(1),
        "adobe-2": adobe(2),
        "jfif-adobe-0": JFIF + adobe(0),
        "jfif-adobe-2": JFIF + adobe(2),
        "adobe-0-jfif": adobe(0) + JFIF,
        "adobe-1-adobe-0": adobe(1) + adobe(0),
    }.items():
        out[f"three-{name}"] = coded(rng, (11, 9), three, markers=markers)
        out[f"named-rgb-{name}"] = coded(rng, (11, 9), three, markers=markers, ids=b"RGB")
        out[f"four-{name}"] = coded(rng, (11, 9), four, markers=markers)
    out["ycck-420"] = coded(rng, (21, 19), [(2, 2), (1, 1), (1, 1), (2, 2)], markers=adobe(2))
    return {f"{name}.jpg": data for name, data in out.items()}


def damaged(rng, data):
    """Some bytes of the last scan changed."""
    data = bytearray(data)
    start = data.rindex(b"\xff\xda") + 14
    for _ in range(int(rng.integers(1, 4))):
        if start < len(data) - 2:
            data[int(rng.integers(start, len(data) - 2))] = int(rng.integers(0, 255))
    return bytes(data)


def random_file(rng):
    size = tuple(int(side) for side in rng.integers(1, 7 if rng.integers(8) == 0 else 81, 2))
    restart = int(rng.integers(1, 9)) if rng.integers(3) == 0 else 0
    if rng.integers(3) == 0:
        factors = FACTORS[list(FACTORS)[rng.integers(len(FACTORS))]]
        orders = [None, [[0], [1], [2]], [[2], [1], [0]], [[0], [1, 2]], [[1], [0, 2]]]
        order = orders[rng.integers(len(orders))]
        frame = 0xC0
        if rng.integers(3) == 0:
            frame, choice = 0xC2, [PROGRESSIVE[3:], [*APART, *BANDS], *missing_scans()]
            order = choice[rng.integers(len(choice))]
        data = coded(rng, size, factors, scans=order, restart=restart, wide=bool(rng.integers(2)), frame=frame)
    else:
        mode = ["RGB", "RGB", "RGB", "L", "CMYK"][rng.integers(5)]
        options = {
            "quality": int(rng.integers(1, 101)),
            "progressive": bool(rng.integers(2)),
            "optimize": bool(rng.integers(2)),
            "restart_marker_blocks": restart,
        }
        if mode == "RGB":
            options |= {"keep_rgb": True} if rng.integers(8) == 0 else {"subsampling": int(rng.integers(3))}
        data = encoded(drawn(rng, *size).convert(mode), **options)
        if options["progressive"] and rng.integers(4) == 0:
            data = cut_after_scan(data, int(rng.integers(1, data.count(b"\xff\xda"))))
    return damaged(rng, data) if rng.integers(6) == 0 else data


if __name__ == "__main__":
    goldens_of_pillow.main(__doc__, ".jpg", files, lambda seed: partial(random_file, np.random.default_rng(seed)))
