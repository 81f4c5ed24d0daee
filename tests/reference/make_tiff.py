"""Makes tests/golden/tiff.safetensors: small TIFF files with samples of every kind, and the RGB that Pillow reads from
those that it reads.

    python tests/reference/make_tiff.py [ALL]

With an argument, a file of that name also contains those that Pillow does not read, for a comparison of every kind. Needs
pillow 13 and safetensors. The files are written here, tag by tag; the result is the same each time.
"""

import io
import itertools
import struct
import sys
from pathlib import Path

import numpy as np
import safetensors.numpy
from PIL import Image, ImageOps

# Of what Pillow does not read, these are kept.
UNREAD = ["mask-u1", "raw-u16", "icclab-u8", "itulab-u8", "grey-f64", "grey-f16", "rgb-f32", "rgb-i16", "cmyk-f32",
          "palette+two-u8", "ycbcr-u16"]

OUT = Path(__file__).parent.parent / "golden" / "tiff.safetensors"
WIDTH, HEIGHT = 5, 3

# Name -> (photometric, samples of colour).
COLOURS = {"white0": (0, 1), "grey": (1, 1), "rgb": (2, 3), "palette": (3, 1), "mask": (4, 1), "cmyk": (5, 4),
           "ycbcr": (6, 3), "cielab": (8, 3), "icclab": (9, 3), "itulab": (10, 3), "raw": (32803, 1)}
# Name -> (SampleFormat, bits, numpy's type).
SAMPLES = {"u1": (1, 1, "u1"), "u2": (1, 2, "u1"), "u4": (1, 4, "u1"), "u8": (1, 8, "u1"), "u16": (1, 16, "u2"),
           "u32": (1, 32, "u4"), "i8": (2, 8, "i1"), "i16": (2, 16, "i2"), "i32": (2, 32, "i4"), "f16": (3, 16, "f2"),
           "f32": (3, 32, "f4"), "f64": (3, 64, "f8")}
EXTRA = {"": [], "+unused": [0], "+premultiplied": [1], "+alpha": [2], "+two": [2, 0]}


def drawn(samples, kind, seed):
    """Random samples of that kind; those of more than 8 bits lie on both sides of 0 and 255."""
    form, bits, dtype = SAMPLES[kind]
    random = np.random.default_rng(seed)
    shape = (HEIGHT, WIDTH, samples)
    if form == 3:
        return (random.random(shape) * 600 - 150).astype(dtype)
    if bits <= 8:
        return random.integers(0, 1 << bits, shape).astype("u1").view(dtype)
    if samples == 1:
        return random.integers(0 if form == 1 else -200, 600, shape).astype(dtype)
    return random.integers(0, 1 << 15, shape).astype(dtype)


def packed(rows, bits, order):
    """The bytes of the samples of some rows, each of which begins with a whole byte."""
    if bits >= 8:
        return rows.astype(rows.dtype.newbyteorder(order)).tobytes()
    levels = np.unpackbits(rows.astype("u1")[..., None], axis=-1)[..., 8 - bits :]
    return np.packbits(levels.reshape(rows.shape[0], -1), axis=-1).tobytes()


def tiff(values, photometric, kind, extra, planar, order, more=()):
    """The bytes of a TIFF of one strip, or of one a plane."""
    form, bits, _ = SAMPLES[kind]
    count = values.shape[2]
    planes = np.moveaxis(values, 2, 0) if planar else [values.reshape(HEIGHT, -1)]
    strips = [packed(plane, bits, order) for plane in planes]
    tags = {256: ("H", [WIDTH]), 257: ("H", [HEIGHT]), 258: ("H", [bits] * count), 259: ("H", [1]), 262: ("H", [photometric]),
            277: ("H", [count]), 278: ("H", [HEIGHT]), 279: ("I", [len(s) for s in strips]), 284: ("H", [2 if planar else 1]),
            339: ("H", [form] * count)}
    if extra:
        tags[338] = ("H", extra)
    if photometric == 3:
        tags[320] = ("H", np.random.default_rng(5).integers(0, 1 << 16, 3 << bits).tolist())
    if photometric == 6:
        tags[530] = ("H", [1, 1])
    tags.update(more)
    at = 8
    offsets = []
    for strip in strips:
        offsets.append(at)
        at += len(strip) + len(strip) % 2
    tags[273] = ("I", offsets)
    body = b"".join(strip + b"\0" * (len(strip) % 2) for strip in strips)
    entries, behind = b"", b""
    rest = 8 + len(body) + 2 + 12 * len(tags) + 4
    for tag, (width, numbers) in sorted(tags.items()):
        data = struct.pack(f"{order}{len(numbers)}{width}", *numbers)
        if len(data) > 4:
            place = struct.pack(order + "I", rest + len(behind))
            behind += data
        else:
            place = data.ljust(4, b"\0")
        entries += struct.pack(order + "HHI", tag, {"H": 3, "I": 4}[width], len(numbers)) + place
    header = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HI", 42, 8 + len(body))
    return header + body + struct.pack(order + "H", len(tags)) + entries + struct.pack(order + "I", 0) + behind


def files():
    """Name -> bytes, of every combination that a writer could mean."""
    made = {}
    for (colour, (photometric, count)), (kind, _), (with_extra, extra) in itertools.product(
        COLOURS.items(), SAMPLES.items(), EXTRA.items()
    ):
        if SAMPLES[kind][1] < 8 and (count > 1 or extra) or photometric == 3 and SAMPLES[kind][1] > 8:
            continue
        values = drawn(count + len(extra), kind, len(made))
        for order in "<>":
            for planar in [False, True][: 1 + (values.shape[2] > 1)]:
                name = f"{colour}{with_extra}-{kind}{'-planes' if planar else ''}-{'little' if order == '<' else 'big'}"
                made[name] = tiff(values, photometric, kind, extra, planar, order)
    for colour in ["rgb", "grey", "cmyk", "ycbcr"]:
        photometric, count = COLOURS[colour]
        values = drawn(count, "u8", count)
        for value in [6] if colour != "rgb" else range(2, 9):
            made[f"{colour}-oriented-{value}"] = tiff(values, photometric, "u8", [], False, "<", {274: ("H", [value])}.items())
        made[f"{colour}-reversed"] = tiff(values, photometric, "u8", [], False, "<", {266: ("H", [2])}.items())
    made["ycbcr-halved"] = tiff(drawn(3, "u8", 1), 6, "u8", [], False, "<", {530: ("H", [2, 2])}.items())
    rgb = Image.fromarray(drawn(3, "u8", 2))
    for compression, mode in itertools.product(["tiff_lzw", "tiff_adobe_deflate", "packbits"], ["RGB", "L", "P", "LA", "CMYK"]):
        data = io.BytesIO()
        rgb.convert(mode).save(data, "TIFF", compression=compression)
        made[f"{mode.lower()}-{compression}"] = data.getvalue()
    for mode, compression in [("1", "group4"), ("1", "group3"), ("RGB", "jpeg"), ("L", "jpeg"), ("YCbCr", "jpeg"),
                              ("YCbCr", "raw"), ("F", "raw"), ("I", "raw"), ("I;16", "raw")]:
        data = io.BytesIO()
        (rgb.convert("L") if mode == "I;16" else rgb).convert(mode).save(data, "TIFF", compression=compression)
        made[f"{mode.lower()}-{compression}"] = data.getvalue()
    return made


def main():
    tensors, out = {}, Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    made = files()
    for name, data in made.items():
        try:
            Image.open(io.BytesIO(data)).load()
            # Pillow takes planes of 16 bits for planes of 8: the same samples side by side are what is right.
            right = made[name.replace("-planes", "")] if "-u16-planes" in name else data
            image = Image.open(io.BytesIO(right))
            image = ImageOps.exif_transpose(image).convert("RGB")
        except Exception:  # Pillow has many ways to say that it does not read a file.
            if out != OUT or name.removesuffix("-little") in UNREAD:
                tensors[f"{name}/file"] = np.frombuffer(data, "u1")
            continue
        tensors[f"{name}/file"] = np.frombuffer(data, "u1")
        tensors[f"{name}/rgb"] = np.asarray(image)
    safetensors.numpy.save_file(tensors, out)
    read = sum(name.endswith("/rgb") for name in tensors)
    print(f"{out}: {len(tensors) - read} files, of which Pillow reads {read}, {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
