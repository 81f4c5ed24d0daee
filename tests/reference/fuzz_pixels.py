"""Random image processors on random pictures: the pixel values of transformers and of this program, value by value.

    python tests/reference/fuzz_pixels.py PIXELS [--count 500] [--seed 0]

PIXELS is the example `pixels` of the package `e2e`, built. Runs the implementations of the transformers that is installed
(4.56.2: slow, fast; 5.24.0: pil, torchvision), with torchvision 0.29.2 and pillow 13. Exits with 1 if any bit differs, except for
Lanczos and Hamming on Pillow, whose sines C libraries round differently (one grey level in a few values), or if one refuses
what the other accepts."""

import argparse
import collections
import json
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import warnings
import zlib

import numpy as np
import transformers
from PIL import Image
from transformers.image_utils import load_image

FAMILIES = ["ViT", "DeiT", "Beit", "CLIP", "Bit", "Siglip", "ConvNext"]
GENERATION = int(transformers.__version__.split(".")[0])
IMPLEMENTATIONS = {4: ["slow", "fast"], 5: ["pil", "torchvision"]}[GENERATION]
# Filters whose kernels have sines.
SINES = (1, 5)


def class_name(family, implementation):
    return f"{family}ImageProcessor{'Fast' if implementation == 'fast' else ''}"


def processor(folder, family, implementation):
    """The image processor of the folder's file, on the backend of the implementation."""
    name = {"slow": "", "fast": "Fast", "pil": "Pil", "torchvision": ""}[implementation]
    return getattr(transformers, f"{family}ImageProcessor{name}").from_pretrained(folder)


def pixel_values(made, picture, implementation):
    # The layout is given explicitly, since images of one or three columns would be taken for planes.
    layout = {"input_data_format": "channels_last"} if implementation == "slow" else {}
    values = made(picture, return_tensors="pt", **layout)["pixel_values"][0]
    return np.ascontiguousarray(np.asarray(values).astype(np.float32))


# --- Files -----------------------------------------------------------------------------------------------------------


def size(draw, family, implementation):
    side = lambda: draw.choice([draw.randint(1, 40), draw.randint(8, 64), draw.choice([16, 24, 32])])
    edges = lambda: {"shortest_edge": side(), "longest_edge": draw.randint(8, 80)}
    forms = [lambda: {"height": side(), "width": side()}, lambda: {"shortest_edge": side()}, edges, side, lambda: [side(), side()]]
    # Those of transformers 4 without a suffix do what their classes do.
    if implementation == "slow" and family in ("ViT", "DeiT", "Beit", "Siglip"):
        forms = forms[:1] if family == "Siglip" else [forms[0], forms[3]]
    elif family == "ConvNext":
        forms = [forms[1], forms[3]]
    elif implementation == "slow":
        forms = forms[:4]
    return draw.choice(forms)()


def random_file(draw, family, implementation):
    """A preprocessor_config.json."""
    file = {"image_processor_type": class_name(family, implementation)}
    maybe = lambda share: draw.random() < share
    on_off = lambda: draw.choice([True, True, False, None])
    side = lambda: draw.randint(1, 50)
    file["size"] = size(draw, family, implementation)
    if maybe(0.9):
        file["resample"] = draw.choice([0, 1, 2, 2, 3, 3, 3, 4, 5])
    if maybe(0.2):
        file["do_resize"] = on_off()
    if maybe(0.6):
        file["crop_size"] = draw.choice([side, lambda: {"height": side(), "width": side()}])()
    if "crop_size" in file and maybe(0.6):
        file["do_center_crop"] = on_off()
    if family == "ConvNext":
        file.pop("crop_size", None), file.pop("do_center_crop", None)
        if maybe(0.5):
            file["crop_pct"] = draw.uniform(0.6, 1.2)
    if maybe(0.3):
        file["do_rescale"] = on_off()
    if maybe(0.3):
        file["rescale_factor"] = draw.choice([1 / 255, 1 / 127.5, draw.uniform(0.001, 0.1)])
    if maybe(0.3):
        file["do_normalize"] = on_off()
    if maybe(0.5):
        file["image_mean"] = draw.choice([0.5, [0.485, 0.456, 0.406], [draw.random() for _ in range(3)]])
        file["image_std"] = draw.choice([0.5, [0.229, 0.224, 0.225], [draw.uniform(0.1, 1) for _ in range(3)]])
    if maybe(0.5):
        file["do_convert_rgb"] = on_off()
    if maybe(0.15):
        file |= {"do_pad": True, "pad_size": {"height": draw.randint(30, 90), "width": draw.randint(30, 90)}}
    if maybe(0.1) and implementation != "slow":
        file["default_to_square"] = draw.choice([True, False])
    return file


# --- Pictures --------------------------------------------------------------------------------------------------------


def random_pixels(draw, height, width):
    noise = np.random.default_rng(draw.getrandbits(32))
    pixels = noise.integers(0, 256, (height, width, 3), dtype=np.uint8)
    kind = draw.randrange(4)
    if kind == 0:
        return (pixels > 127) * np.uint8(255)
    if kind == 1:
        y, x = np.mgrid[:height, :width]
        ramp = np.stack([255 * x // width, 255 * y // height, 255 * (x + y) // (width + height)], -1)
        return (ramp // 2 + pixels // 2).astype(np.uint8)
    if kind == 2:
        return np.full((height, width, 3), draw.randrange(256), np.uint8)
    return pixels


def png(color_type, bits, rows, width, palette=None, transparency=None):
    """A PNG of rows of packed pixels."""
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", width, len(rows), bits, color_type, 0, 0, 0)
    made = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    if palette is not None:
        made += chunk(b"PLTE", palette)
    if transparency is not None:
        made += chunk(b"tRNS", transparency)
    return made + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))) + chunk(b"IEND", b"")


def marked_png(draw, height, width):
    """A PNG with a tRNS chunk; few levels, so that the marked colour occurs."""
    bytes_of = lambda count: bytes(draw.choice([0, 1, 2, 9, 85, 153, 255]) for _ in range(count))
    level = lambda: draw.choice([0, 1, 2, 9, 85, 153, 255, 256, 300, 0x909])
    levels = lambda count: b"".join(struct.pack(">H", level()) for _ in range(count))
    color_type, bits = draw.choice([(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2), (3, 4), (3, 8)])
    if color_type == 3:
        entries = draw.randint(1, min(1 << bits, 6)) if bits > 2 else 1 << bits
        palette = bytes_of(3 * entries)
        index = lambda: draw.randrange(entries)
        alphas = draw.choice([
            b"\xff" * index() + b"\0", b"\xff" * index() + b"\0" + b"\xff", b"\0\0", b"\x80", b"\xff\x80\0", b"\xff",
        ])[:entries]  # fmt: skip
        per_byte = 8 // bits
        row = lambda: bytes(sum(index() << (bits * at) for at in range(per_byte)) for _ in range(-(-width * bits // 8)))
        return png(3, bits, [row() for _ in range(height)], width, palette, alphas)
    channels = 1 if color_type == 0 else 3
    if bits == 16:
        row = lambda: b"".join(struct.pack(">H", level()) for _ in range(width * channels))
    else:
        row = lambda: bytes_of(-(-width * channels * bits // 8))
    return png(color_type, bits, [row() for _ in range(height)], width, transparency=levels(channels))


def random_picture(draw, at):
    """Writes a picture to `at` and returns the whole path."""
    height, width = draw.randint(1, 90), draw.randint(1, 90)
    kind = draw.choice(["RGB"] * 6 + ["L", "LA", "RGBA", "marked", "marked", "marked", "P", "GIF", "GIF", "WebP", "TIFF", "1"])
    if kind == "marked":
        path = at.with_suffix(".png")
        path.write_bytes(marked_png(draw, height, width))
        return path
    image = Image.fromarray(random_pixels(draw, height, width))
    alpha = Image.fromarray(random_pixels(draw, height, width)[..., 0])
    options = {}
    if kind in ("P", "GIF"):
        image = image.quantize(draw.randint(2, 16))
        options = {"transparency": draw.randrange(2)} if draw.random() < 0.7 else {}
    elif kind in ("RGBA", "WebP", "TIFF"):
        image.putalpha(alpha)
    elif kind != "RGB":
        image = image.convert(kind[0])
        if kind == "LA":
            image.putalpha(alpha)
    path = at.with_suffix({"GIF": ".gif", "WebP": ".webp", "TIFF": ".tiff"}.get(kind, ".png"))
    image.save(path, **options, **({"lossless": True} if kind == "WebP" else {}))
    return path


# --- Comparing -------------------------------------------------------------------------------------------------------


def run_program(program, folder, jobs):
    """The program's results for the jobs' images: arrays, or its error messages."""
    (folder / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run([program, folder / "jobs.json", folder / "tensors"], check=True, capture_output=True, text=True)
    values, at = np.fromfile(folder / "tensors", "<f4"), 0
    for line in map(json.loads, done.stdout.splitlines()):
        if "error" in line:
            yield line["error"]
            continue
        height, width = line["size"]
        yield values[at : at + 3 * height * width].reshape(3, height, width)
        at += 3 * height * width


def verdict(file, implementation, expected, found):
    """`None` if both agree, else the difference."""
    if isinstance(expected, Exception) and (isinstance(found, str) or "INTERNAL ASSERT FAILED" in str(expected)):
        # ATen cannot resize 1 x 1 pixels in one pass.
        return None
    if implementation in ("fast", "torchvision") and file.get("resample") in (4, 5) and "resample" in str(found):
        # torchvision does not object to a missing filter if an image already has the size.
        return None
    if isinstance(expected, Exception) or isinstance(found, str):
        return f"transformers: {expected!r:.200}; program: {found!r:.200}"
    if expected.shape != found.shape:
        return f"shapes {expected.shape} and {found.shape}"
    away = expected != found
    if implementation in ("slow", "pil") and file.get("resample") in SINES and away.mean() < 0.01:
        return None
    if away.any():
        return f"{away.mean():.2%} of the values differ, the most by {np.abs(expected - found).max()}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    draw = random.Random(args.seed)
    tally, failures = collections.Counter(), []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        jobs, wanted = [], []
        for number in range(args.count):
            family, implementation = draw.choice(FAMILIES), draw.choice(IMPLEMENTATIONS)
            file = random_file(draw, family, implementation)
            at = folder / str(number)
            at.mkdir()
            (at / "preprocessor_config.json").write_text(json.dumps(file))
            (at / "config.json").write_text(json.dumps({"model_type": "vit", "transformers_version": transformers.__version__}))
            pictures = [random_picture(draw, at / str(picture)) for picture in range(3)]
            choice = "torchvision" if implementation == "torchvision" else None
            jobs.append({"folder": str(at), "image_processor": choice, "pictures": list(map(str, pictures))})
            for picture in pictures:
                try:
                    values = pixel_values(processor(at, family, implementation), load_image(str(picture)), implementation)
                except Exception as error:
                    values = error
                wanted.append((file, implementation, picture, values))
        for (file, implementation, picture, expected), found in zip(wanted, run_program(args.program, folder, jobs), strict=True):
            problem = verdict(file, implementation, expected, found)
            outcome = "refused" if isinstance(expected, Exception) else "equal"
            tally[implementation, "differ" if problem else outcome] += 1
            if problem:
                image = Image.open(picture)
                failures.append(f"{json.dumps(file)}, {picture.name} {image.mode} {image.size}: {problem}")
    print(f"transformers {transformers.__version__}:", dict(sorted(tally.items())))
    print(*failures[:40], sep="\n")
    sys.exit(len(failures) > 0)


if __name__ == "__main__":
    main()
