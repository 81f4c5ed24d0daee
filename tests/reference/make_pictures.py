"""Makes tests/golden/pictures: small drawn pictures in many formats, what Pillow and transformers read from them, and
what transformers' image processors make of them.

    python tests/reference/make_pictures.py

Needs pillow 13, transformers 4.56.2 and safetensors. Every picture is drawn here; the result is the same each time.
"""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import safetensors.numpy
from PIL import Image, ImageDraw
from transformers import CLIPImageProcessor, ViTImageProcessor
from transformers.image_utils import load_image

OUT = Path(__file__).parent.parent / "golden" / "pictures"
FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}


def drawn(width, height):
    """A colour gradient with hard-edged shapes and fine stripes; no two orientations of it look the same."""
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([255 * x // width, 255 * y // height, 255 - 255 * (x + y) // (width + height)], -1)
    image = Image.fromarray(rgb.astype(np.uint8))
    draw = ImageDraw.Draw(image)
    w, h = width / 8, height / 8
    draw.ellipse([w, h, 3 * w, 3 * h], fill=(250, 20, 30))
    draw.rectangle([4 * w, h, 7 * w, 2 * h], fill=(10, 200, 40))
    draw.polygon([(w, 7 * h), (3 * w, 7 * h), (2 * w, 4 * h)], fill=(20, 30, 240))
    for at in range(int(5 * w), int(7 * w), 2):
        draw.line([at, 4 * h, at, 7 * h], fill=(255, 255, 255) if at % 4 else (0, 0, 0))
    return image


def noise(width, height):
    return Image.fromarray(np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), np.uint8))


def encoded(image, kind, **options):
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def formats():
    """File name -> bytes."""
    rgb, grey = drawn(40, 30), drawn(40, 30).convert("L")
    alpha = Image.fromarray((np.mgrid[0:30, 0:40][1] * 6).astype(np.uint8))
    deep = np.asarray(grey).astype(np.uint16)
    palette = rgb.quantize(16)
    rgba = rgb.copy()
    rgba.putalpha(alpha)
    files = {
        "rgb.png": encoded(rgb, "PNG"),
        "rgba.png": encoded(rgba, "PNG"),
        "grey.png": encoded(grey, "PNG"),
        "grey-alpha.png": encoded(Image.merge("LA", [grey, alpha]), "PNG"),
        "palette.png": encoded(palette, "PNG"),
        "palette-transparent.png": encoded(palette, "PNG", transparency=3),
        "rgb-transparent.png": encoded(rgb, "PNG", transparency=(250, 20, 30)),
        "bilevel.png": encoded(grey.convert("1"), "PNG"),
        # Values on both sides of 255: where Pillow's conversion clips.
        "grey16.png": encoded(Image.fromarray(deep * 3), "PNG"),
        "rgb16.png": rgb16_png(np.asarray(rgb).astype(np.uint16) * 255 + 99),
        "exif.png": encoded(rgb, "PNG", exif=oriented(6)),
        "pixel.png": encoded(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG"),
        "rgb.bmp": encoded(rgb, "BMP"),
        "palette.gif": encoded(palette, "GIF"),
        "transparent.gif": encoded(palette, "GIF", transparency=3),
        "animated.gif": encoded(palette, "GIF", save_all=True, append_images=[palette.rotate(180)]),
        "rgb.tiff": encoded(rgb, "TIFF", compression="tiff_lzw"),
        "grey16.tiff": encoded(Image.fromarray(deep * 3), "TIFF"),
        "oriented.tiff": encoded(rgb, "TIFF", compression="tiff_lzw", tiffinfo={274: 8}),
        "rgb.ppm": encoded(rgb, "PPM"),
        "grey.pgm": encoded(grey, "PPM"),
        "lossless.webp": encoded(rgb, "WEBP", lossless=True),
        "alpha.webp": encoded(rgba, "WEBP", lossless=True, exact=True),
        "lossy.webp": encoded(rgb, "WEBP", quality=80),
        "grey.jpg": encoded(grey, "JPEG", quality=90),
        "444.jpg": encoded(rgb, "JPEG", quality=90, subsampling=0),
        "422.jpg": encoded(rgb, "JPEG", quality=90, subsampling=1),
        "420.jpg": encoded(rgb, "JPEG", quality=90, subsampling=2),
        "420-odd.jpg": encoded(rgb.crop((0, 0, 37, 29)), "JPEG", quality=90, subsampling=2),
        "progressive.jpg": encoded(rgb, "JPEG", quality=90, progressive=True),
        "restarts.jpg": encoded(rgb, "JPEG", quality=90, restart_marker_blocks=1),
        "cmyk.jpg": encoded(rgb.convert("CMYK"), "JPEG", quality=95),
        "pixel.jpg": encoded(Image.new("RGB", (1, 1), (200, 100, 50)), "JPEG", quality=95),
        "xmp.jpg": encoded(rgb, "JPEG", quality=90, subsampling=0, xmp=b'<x tiff:Orientation="6"/>'),
        "no-tables.jpg": without_tables(encoded(rgb, "JPEG", quality=90, subsampling=1)),
        "trailing.jpg": encoded(rgb, "JPEG", quality=90) + b"\0" * 100,
    }
    for value in range(1, 9):
        files[f"exif-{value}.jpg"] = encoded(rgb, "JPEG", quality=90, subsampling=0, exif=oriented(value))
    return files


def oriented(value):
    exif = Image.Exif()
    exif[274] = value
    return exif.tobytes()


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width, height, depth, color, *chunks):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks)


def rgb16_png(pixels):
    """Pillow writes no 16-bit RGB."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return png(width, height, 16, 2, chunk(b"IDAT", zlib.compress(rows, 9)), chunk(b"IEND", b""))


def without_tables(jpeg):
    """A frame as many webcams send it: no Huffman tables."""
    kept, at = jpeg[:2], 2
    while jpeg[at + 1] != 0xDA:
        length = 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        kept += b"" if jpeg[at + 1] == 0xC4 else jpeg[at : at + length]
        at += length
    return kept + jpeg[at:]


def case(picture, to=None, filter="bilinear", crop=None, rescale=True, normalize="half"):
    """One run of an image processor, and the recipe that says the same. Sizes are (height, width) or an edge."""
    means = {
        "half": ([0.5] * 3, [0.5] * 3),
        "clip": ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
        None: None,
    }[normalize]
    sides = lambda size: {"height": size[0], "width": size[1]}
    exact = isinstance(to, tuple)
    options = {
        "do_resize": to is not None,
        "size": sides(to) if exact else {"shortest_edge": to or 1},
        "resample": FILTERS[filter],
        "do_rescale": rescale,
        "do_normalize": means is not None,
        "image_mean": means and means[0],
        "image_std": means and means[1],
    }
    if exact and crop is None:
        processor = ViTImageProcessor(**options)
    else:
        processor = CLIPImageProcessor(**options, do_center_crop=crop is not None, crop_size=sides(crop or (1, 1)))
    target = {"exact": sides(to)} if exact else {"shortest_edge": to}
    recipe = {
        "resize": to and {"to": target, "filter": filter},
        "crop": crop and sides(crop),
        "rescale_factor": processor.rescale_factor if rescale else None,
        "normalize": means and {"mean": means[0], "std": means[1]},
    }
    # Given explicitly, because images of one or three rows would be taken for planes.
    run = lambda **change: processor(picture, return_tensors="np", input_data_format="channels_last", **change)
    pixels = run(do_rescale=False, do_normalize=False)["pixel_values"][0]
    return recipe, pixels, run()["pixel_values"][0].astype(np.float32)


def cases():
    """Name -> (picture's name, arguments of `case`)."""
    table = {
        "vit": ("frame", dict(to=(48, 48))),
        "clip": ("frame", dict(to=32, filter="bicubic", crop=(32, 32), normalize="clip")),
        "clip portrait": ("portrait", dict(to=24, filter="bicubic", crop=(24, 24), normalize="clip")),
        "crop of odd rest": ("portrait", dict(to=20, filter="bicubic", crop=(15, 17), normalize="clip")),
        "crop larger than the picture": ("portrait", dict(to=12, filter="bicubic", crop=(33, 30), normalize="clip")),
        "crop wider than the picture": ("portrait", dict(to=20, filter="bicubic", crop=(24, 31), normalize="clip")),
        "crop only": ("portrait", dict(crop=(30, 40))),
        "edge only": ("portrait", dict(to=16, filter="bicubic")),
        "as it is": ("portrait", dict()),
        "no rescale": ("portrait", dict(to=(9, 11), rescale=False)),
        "no normalise": ("portrait", dict(to=(9, 11), normalize=None)),
        "bytes": ("portrait", dict(to=(9, 11), rescale=False, normalize=None)),
        "one pixel": ("pixel", dict(to=(9, 7), filter="bicubic")),
        "one column": ("column", dict(to=(24, 24), filter="bicubic")),
        "one column, shortest edge": ("column", dict(to=4, filter="lanczos", crop=(16, 16))),
        "to one pixel": ("portrait", dict(to=(1, 1), filter="lanczos")),
        "same size": ("portrait", dict(to=(53, 31), filter="lanczos")),
        "same width": ("portrait", dict(to=(20, 31), filter="lanczos")),
        "same height": ("portrait", dict(to=(53, 20), filter="lanczos")),
        "tall": ("tall", dict(to=(24, 24), filter="bicubic")),
        "wide": ("wide", dict(to=(24, 24), filter="bicubic")),
        "wide, shortest edge": ("wide", dict(to=8, filter="bicubic", crop=(8, 8))),
    }
    for name in FILTERS:
        table[f"{name} down"] = ("frame", dict(to=(30, 37), filter=name))
        table[f"{name} up"] = ("tiny", dict(to=(31, 30), filter=name))
        # Much less height, more width: Pillow takes the rows first.
        table[f"{name} rows first"] = ("portrait", dict(to=(24, 40), filter=name))
    return table


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    files = formats()
    pictures = {
        "frame": drawn(640, 480),
        "portrait": noise(31, 53),
        "tiny": noise(5, 4),
        "pixel": noise(1, 1),
        "column": noise(1, 7),
        "tall": noise(3, 200),
        "wide": noise(200, 3),
    }
    sources = {f"source-{name}.png": encoded(picture, "PNG", optimize=True) for name, picture in pictures.items()}
    # More pixels than are accepted; refused from the header, so the data is never looked at.
    broken = {"huge.png": png(20_000, 10_000, 8, 2, chunk(b"IDAT", zlib.compress(b"")))}
    for name, data in {**files, **sources, **broken}.items():
        (OUT / name).write_bytes(data)
    read = {name: np.asarray(load_image(str(OUT / name))) for name in files}
    safetensors.numpy.save_file(read, OUT / "decoded.safetensors")

    recipes, tensors = {}, {}
    for name, (picture, arguments) in cases().items():
        recipe, pixels, values = case(pictures[picture], **arguments)
        recipes[name] = {"picture": f"source-{picture}.png", "recipe": recipe}
        tensors[f"{name}/pixels"] = np.ascontiguousarray(pixels.astype(np.uint8))
        tensors[f"{name}/values"] = np.ascontiguousarray(values)
    safetensors.numpy.save_file(tensors, OUT / "preprocessed.safetensors")
    (OUT / "recipes.json").write_text(json.dumps(recipes, indent=1) + "\n")
    print(f"{sum(path.stat().st_size for path in OUT.iterdir())} bytes in {OUT}")


if __name__ == "__main__":
    main()
