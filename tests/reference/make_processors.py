"""Makes tests/golden/processors: files of image processors, and what transformers' image processors make of
odd images with them; and small files with transparent colours.

    python tests/reference/make_processors.py --transformers-5 FOLDER

Needs pillow 13, transformers 4.56.2, torchvision 0.29.2 and safetensors, and transformers 5.24.0 in FOLDER (see
requirements.txt); run make_pictures.py before. `fuzz_pixels.py` compares more, at random.
"""

import argparse
import base64
import hashlib
import io
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

import numpy as np
import safetensors.numpy
from fuzz_pixels import FAMILIES, marked_png, random_file
from PIL import Image

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
OUT = GOLDEN / "processors"

# Height x width; drawn by `drawn`, here and in the test.
DRAWN = [
    (1, 1), (1, 7), (7, 1), (1, 300), (300, 1), (2, 2), (3, 3), (3, 5), (5, 3), (4, 3), (11, 13),
    (16, 200), (200, 16), (23, 23), (23, 24), (24, 24), (24, 25), (25, 24), (25, 25), (31, 32), (32, 32), (33, 31),
    (37, 53), (53, 37), (223, 224), (224, 224), (225, 225), (255, 257), (480, 640), (1080, 1920),
]  # fmt: skip
# From make_pictures.py: as Pillow reads them, upright and RGB.
FILES = [
    "grey.png", "rgba.png", "palette-transparent.png", "grey16.png", "rgb16.png", "bilevel.png",
    "cmyk.jpg", "exif-6.jpg", "420-odd.jpg", "lossy.webp", "transparent.gif", "oriented.tiff",
]  # fmt: skip

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
# The C library's sine decides a rounding now and then, so these are compared pixel by pixel, on few pictures.
SINES = ("lanczos", "hamming")
FEW = ["5x3", "24x25", "37x53", "16x200", "480x640", "grey.png"]
# Contrasts overshoot; in some, one side grows and the other shrinks.
SOME = ["1x7", "11x13", "25x24", "31x32", "53x37", "200x16", "255x257", "contrast 20x30", "contrast 90x13", "contrast 9x17"]
# Where nearest ends between two pixels.
BETWEEN = ["4x2", "20x16"]
# Random files of each implementation.
RANDOM = 14


def drawn(height, width):
    """A gradient with noise; each number fits 32 bits."""
    at = np.arange(height * width * 3, dtype=np.uint64)
    noise = (at * 2654435761 % 2**32) >> 24
    y, x = at // (width * 3), at // 3 % width
    return ((noise // 2 + 64 * x // width + 64 * y // height) % 256).astype(np.uint8).reshape(height, width, 3)


def pictures():
    decoded = safetensors.numpy.load_file(GOLDEN / "pictures" / "decoded.safetensors")
    table = {f"{h}x{w}": drawn(h, w) for h, w in DRAWN} | {name: decoded[name] for name in FILES}
    for name in [*SOME, *BETWEEN]:
        sides = map(int, name.removeprefix("contrast ").split("x"))
        table[name] = (drawn(*sides) > 127) * np.uint8(255) if name.startswith("contrast ") else drawn(*sides)
    return table


def files():
    """Name -> preprocessor_config.json. `_tower` becomes the model_type of a config.json, `_version` its
    transformers_version (4.56.2 where left out); `_choice` overrides the implementation."""
    def kind(name, **keys):
        family = name.removesuffix("Fast").removesuffix("Pil")
        return {"image_processor_type": f"{family}ImageProcessor{name.removeprefix(family)}", **keys}

    edges = lambda short, long: {"shortest_edge": short, "longest_edge": long}
    sides = lambda height, width: {"height": height, "width": width}
    table = {f"{name} default": kind(name) for name in ["ViT", "DeiT", "Beit", "CLIP", "Bit", "Siglip", "ConvNext"]}
    table |= {f"{name} fast default": kind(name + "Fast") for name in ["ViT", "DeiT", "Beit", "CLIP", "Bit", "Siglip"]}
    for tower in ["deit", "beit", "clip", "dinov2", "siglip", "swin"]:
        table[f"nothing but {tower}"] = {"size": {"shortest_edge": 26} if tower in ("clip", "dinov2") else sides(26, 26),
                                         "crop_size": 24, "_tower": tower}  # fmt: skip
    table |= {
        "vit number": kind("ViT", size=24),
        "vit extractor": {"feature_extractor_type": "ViTFeatureExtractor", "size": 24, "resample": 2, "do_resize": True},
        "vit list": kind("ViT", size=[20, 28]),
        "vit tall": kind("ViT", size=sides(28, 20), resample=3),
        "vit crop ignored": kind("ViT", size=24, do_center_crop=True, crop_size=20),
        "vit as it is": kind("ViT", do_resize=False),
        "vit nulls": kind("ViT", size=24, do_rescale=None, do_normalize=None, resample=3),
        "vit no resize, null": kind("ViT", do_resize=None, image_mean=None),
        "vit no rescale": kind("ViT", size=24, do_rescale=False),
        "vit no normalise": kind("ViT", size=24, do_normalize=False),
        "vit bytes": kind("ViT", size=24, do_rescale=False, do_normalize=False),
        "vit factor": kind("ViT", size=24, rescale_factor=1 / 127.5, do_normalize=False),
        "vit one mean": kind("ViT", size=24, image_mean=0.25, image_std=0.3),
        "vit rgb": kind("ViT", size=24, do_convert_rgb=True, **IMAGENET),
        "deit": kind("DeiT", size=28, crop_size=24),
        "deit extractor": {"feature_extractor_type": "DeiTFeatureExtractor", "size": 28, "crop_size": 24, "resample": 3,
                           "do_center_crop": True, **IMAGENET},  # fmt: skip
        "deit odd crop": kind("DeiT", size=sides(30, 27), crop_size=sides(23, 24)),
        "deit crop too large": kind("DeiT", size=sides(20, 23), crop_size=sides(27, 24)),
        "deit crop too wide": kind("DeiT", size=sides(30, 20), crop_size=[24, 25]),
        "deit no crop": kind("DeiT", size=24, do_center_crop=False),
        "beit extractor": {"feature_extractor_type": "BeitFeatureExtractor", "do_center_crop": False, "crop_size": 20,
                           "size": 24, "resample": 2, "reduce_labels": True},  # fmt: skip
        "beit labels": kind("Beit", size=28, crop_size=24, do_reduce_labels=True),
        "clip": kind("CLIP", size={"shortest_edge": 24}, crop_size=sides(24, 24)),
        "clip extractor": {"feature_extractor_type": "CLIPFeatureExtractor", "size": 24, "crop_size": 24, "resample": 3},
        "clip longest edge ignored": kind("CLIP", size=edges(24, 30), crop_size=24),
        "clip sides": kind("CLIP", size=sides(26, 30), crop_size=24),
        "clip list": kind("CLIP", size=[26, 30], crop_size=[24, 23]),
        "clip crop too large": kind("CLIP", size=20, crop_size=27),
        "clip crop only": kind("CLIP", do_resize=False, crop_size=24),
        "clip edge only": kind("CLIP", size=12, do_center_crop=False),
        "clip nulls": kind("CLIP", size=24, do_center_crop=None, do_resize=None, crop_size=24),
        "dinov2": kind("Bit", size={"shortest_edge": 27}, crop_size=sides(24, 24), **IMAGENET),
        "dinov2 odd crop": kind("Bit", size={"shortest_edge": 28}, crop_size=sides(23, 25), **IMAGENET),
        "siglip": kind("Siglip", size=sides(24, 24)),
        "siglip list": kind("Siglip", size=[24, 20], resample=2),
        "convnext": kind("ConvNext", size={"shortest_edge": 24}),
        "convnext share": kind("ConvNext", size=23, crop_pct=0.9, resample=3),
        "convnext padded": kind("ConvNext", size=24, crop_pct=1.1, do_center_crop=True),
        "convnext extractor": {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 24, "crop_pct": None},
        "fast vit crop": kind("ViTFast", size={"shortest_edge": 26}, do_center_crop=True, crop_size=24),
        "fast vit edge": kind("ViTFast", size=14, default_to_square=False),
        "fast nulls": kind("ViTFast", size=24, do_resize=None, do_rescale=None, do_normalize=None, do_center_crop=None),
        "fast clip edges": kind("CLIPFast", size=edges(24, 30), crop_size=24),
        "fast clip edges up": kind("CLIPFast", size=edges(48, 57), crop_size=20, resample=2),
        "fast siglip edges": kind("SiglipFast", size=edges(16, 21)),
        "fast beit": kind("BeitFast", size=24, crop_size=20),
        "pil deit": kind("DeiTPil", size=28, crop_size=24),
        # Its default is bilinear in transformers 4, bicubic in 5.
        "fast convnext": kind("ConvNextFast", size={"shortest_edge": 24}, resample=3),
    }
    for name, number in FILTERS.items():
        table[f"{name} square"] = kind("ViT", size=24, resample=number)
        table[f"{name} edge"] = kind("CLIP", size=24, resample=number, crop_size=24)
    for made in ("fast", "torchvision"):
        for name, number in list(FILTERS.items())[:4]:
            table[f"{made} {name} square"] = kind("ViT", size=24, resample=number)
            table[f"{made} {name} edge"] = kind("CLIP", size=24, resample=number, crop_size=23)
        # Where a middle lies between two pixels: the small kernel of ATen, and the other one.
        for height, width in [(82, 41), (410, 200), (82, 470)]:
            table[f"{made} between {height}x{width}"] = kind("ViT", size=sides(height, width), resample=0)
    edge_of_24 = edges(24, 30)
    five = {
        "vit crop": kind("ViT", size=sides(32, 32), do_center_crop=True, crop_size=24),
        "siglip crop": kind("Siglip", size=sides(32, 32), do_center_crop=True, crop_size=23),
        "clip edges": kind("CLIP", size=edge_of_24, crop_size=24),
        "vit pad": kind("ViT", size=edge_of_24, do_pad=True, pad_size=sides(32, 34)),
        "bit default": kind("Bit"),
        "beit default": kind("Beit"),
        "beit no pad": kind("Beit", size=24, do_pad=True, pad_size=sides(32, 34)),
        "convnext": kind("ConvNext", size={"shortest_edge": 24}),
    }
    table |= {f"{made} {name}": file for made in ("pil", "torchvision") for name, file in five.items()}
    for made in ("slow", "fast", "pil", "torchvision"):
        draw = random.Random(made)
        for number in range(RANDOM):
            family = FAMILIES[number % len(FAMILIES)]
            file = random_file(draw, family, made)
            while made in ("slow", "pil") and file.get("resample") in (1, 5) or file.get("resample") in (4, 5):
                file = random_file(draw, family, made)
            table[f"{made} random {number}"] = file
    for name, file in table.items():
        made = name.split()[0]
        if made == "fast" and not file["image_processor_type"].endswith("Fast"):
            file["image_processor_type"] += "Fast"
        elif made in ("pil", "torchvision"):
            table[name] = file | {"_version": "5.24.0"} | ({"_choice": made} if made == "torchvision" else {})
    return table


def implementation(file):
    """The one that transformers means by the file."""
    name = file.get("image_processor_type", "")
    if "_choice" in file:
        return file["_choice"]
    return "fast" if name.endswith("Fast") else "pil" if name.endswith("Pil") or "_version" in file else "slow"


def processor(file):
    """The image processor of the file, as the library itself finds it."""
    import transformers

    made = implementation(file)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        tower = file.get("_tower")
        file = {key: value for key, value in file.items() if not key.startswith("_")}
        (folder / "preprocessor_config.json").write_text(json.dumps(file))
        if tower:
            (folder / "config.json").write_text(json.dumps({"model_type": tower}))
        if made in ("slow", "fast"):
            return transformers.AutoImageProcessor.from_pretrained(folder, use_fast=made == "fast")
        name = file["image_processor_type"].removesuffix("Pil") + ("Pil" if made == "pil" else "")
        return getattr(transformers, name).from_pretrained(folder)


def run(made, picture, **change):
    # The layout is given explicitly, because images of one or three rows would be taken for planes.
    if "Fast" in type(made).__name__ or getattr(made, "backend", "") == "torchvision":
        picture = Image.fromarray(picture)
    else:
        change["input_data_format"] = "channels_last"
    found = made(picture, return_tensors="pt", **change)["pixel_values"][0]
    return np.ascontiguousarray(np.asarray(found))


def checksum(array):
    return hashlib.sha256(array.tobytes()).hexdigest()[:16]


def measure(generation):
    """File -> picture -> what the image processor makes of it, and the pixels apart."""
    cases, tensors = {}, {}
    drawings = pictures()
    for name, file in files().items():
        own = implementation(file)
        if (own in ("slow", "fast")) != (generation == 4):
            continue
        sine = name.split()[0] in SINES
        whole = "default" in name or "as it is" in name or "no resize" in name
        # Whole tensors take much space, and the differences between implementations show on some.
        some = own in ("fast", "torchvision") or "random" in name or "_version" in file
        all_but = [p for p in drawings if p not in BETWEEN and not (whole and p == "1080x1920") and not p.startswith("contrast")]
        chosen = FEW if sine else BETWEEN if "between" in name else SOME if some else all_but
        results = cases[name] = {}
        try:
            made = processor(file)
        except Exception as error:
            results["error"] = str(error)
            continue
        for picture in chosen:
            try:
                values = run(made, drawings[picture]).astype(np.float32)
            except Exception as error:
                # ATen cannot resize 1 x 1 pixels in one pass, so there is no result.
                if "INTERNAL ASSERT FAILED" not in str(error):
                    results[picture] = {"error": type(error).__name__}
                continue
            height, width = values.shape[1:]
            if sine:
                pixels = run(made, drawings[picture], do_rescale=False, do_normalize=False)
                tensors[f"{name}/{picture}"] = np.ascontiguousarray(pixels.astype(np.uint8))
            results[picture] = {"size": [height, width], "sha256": checksum(values)}
    return cases, tensors


def transparent():
    """Small files, and their pixels as RGB without and with what `convert_to_rgb` of transformers 5 does to them."""
    import transformers.image_transforms
    from transformers.image_utils import load_image

    draw = random.Random("transparent")
    files = {f"{number}.png": marked_png(draw, draw.randint(1, 4), draw.randint(1, 9)) for number in range(60)}
    for number, (mode, marked) in enumerate([("P", 0), ("P", 1), ("P", None), ("L", 9), ("L", None)]):
        grey = Image.fromarray(drawn(4, 5)[..., 0] // 16)
        image = grey if mode == "L" else Image.fromarray(drawn(4, 5)).quantize(3)
        with io.BytesIO() as out:
            image.save(out, "GIF", **({} if marked is None else {"transparency": marked}))
            files[f"{number}.gif"] = out.getvalue()
    for name, save in [("alpha.png", {}), ("alpha.webp", {"lossless": True}), ("alpha.tiff", {})]:
        image = Image.fromarray(drawn(4, 5))
        image.putalpha(Image.fromarray(drawn(4, 5)[..., 1]))
        with io.BytesIO() as out:
            image.save(out, name.split(".")[1], **save)
            files[name] = out.getvalue()
    made = []
    for name, data in files.items():
        image = load_image("data:image/x;base64," + base64.b64encode(data).decode())
        white = transformers.image_transforms.convert_to_rgb(image, return_numpy=True)
        dropped = np.asarray(image)
        made.append({"name": name, "bytes": data.hex(), "size": dropped.shape[:2], "dropped": dropped.tobytes().hex(),
                     "on_white": white.tobytes().hex()})  # fmt: skip
    return made


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--transformers-5", type=pathlib.Path)
    parser.add_argument("--step", choices=["measure"], help=argparse.SUPPRESS)
    parser.add_argument("--to", type=pathlib.Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step == "measure":
        cases, tensors = measure(5)
        args.to.with_suffix(".json").write_text(json.dumps({"cases": cases, "transparent": transparent()}))
        return safetensors.numpy.save_file(tensors, args.to)
    again = lambda folder, *more: subprocess.run(
        [sys.executable, __file__, *more], check=True, env={**os.environ, "PYTHONPATH": str(folder)}
    )
    with tempfile.TemporaryDirectory() as folder:
        to = pathlib.Path(folder) / "newer.safetensors"
        again(args.transformers_5, "--step", "measure", "--to", str(to))
        newer = json.loads(to.with_suffix(".json").read_text())
        tensors = safetensors.numpy.load_file(to)
    older, older_tensors = measure(4)
    tensors |= older_tensors
    cases = []
    for name, file in files().items():
        results = (older | newer["cases"])[name]
        assert "error" not in results, (name, results)
        case = {"name": name, "file": json.dumps({k: v for k, v in file.items() if not k.startswith("_")})}
        case |= {"version": file.get("_version", "4.56.2"), "tower": file.get("_tower", "vit")}
        cases.append(case | {"choice": file.get("_choice"), "results": results})
    OUT.mkdir(parents=True, exist_ok=True)
    text = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    (OUT / "cases.json").write_text(f"[\n{text}\n]\n")
    text = ",\n".join(json.dumps(case, separators=(",", ":")) for case in newer["transparent"])
    (OUT / "transparent.json").write_text(f"[\n{text}\n]\n")
    safetensors.numpy.save_file(tensors, OUT / "pixels.safetensors")
    runs = sum(len(case["results"]) for case in cases)
    print(f"{len(cases)} files, {runs} runs, {sum(p.stat().st_size for p in OUT.iterdir())} bytes in {OUT}")


if __name__ == "__main__":
    main()
