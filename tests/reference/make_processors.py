"""Makes tests/golden/processors: files of image processors, and what transformers' image processors make by them of
odd pictures.

    python tests/reference/make_processors.py --transformers-5 FOLDER [--torchvision FOLDER]

Needs pillow 13, transformers 4.56.2 and safetensors, and transformers 5.23.0 in FOLDER (see requirements.txt); run
make_pictures.py before. Files of `Fast` and `Pil` processors are run by the Pillow backend of transformers 5, all others
by transformers 4.56.2; what transformers 5 makes of those is compared, and where it differs the case says so.

    PYTHONPATH=FOLDER python tests/reference/make_processors.py --step fast

With torchvision 0.29.2 in FOLDER, compares the `Fast` processors of 4.56.2, which run on torchvision, with those on
Pillow: pixels are at most FAST_WORST grey steps of 255 apart, at most FAST_SHARE of them at all; and where the margin of a
crop is odd, torchvision's crop lies one pixel further down and right.
"""

import argparse
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import safetensors.numpy

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
# What rounding within torchvision's resize may change.
FAST_WORST, FAST_SHARE = 2, 0.01
FEW = ["5x3", "24x25", "37x53", "16x200", "480x640", "grey.png"]


def drawn(height, width):
    """A gradient with noise; each number fits 32 bits."""
    at = np.arange(height * width * 3, dtype=np.uint64)
    noise = (at * 2654435761 % 2**32) >> 24
    y, x = at // (width * 3), at // 3 % width
    return ((noise // 2 + 64 * x // width + 64 * y // height) % 256).astype(np.uint8).reshape(height, width, 3)


def pictures():
    decoded = safetensors.numpy.load_file(GOLDEN / "pictures" / "decoded.safetensors")
    return {f"{h}x{w}": drawn(h, w) for h, w in DRAWN} | {name: decoded[name] for name in FILES}


def files():
    """Name -> preprocessor_config.json. `_tower` becomes the model_type of a config.json."""
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
    return table


def is_fast(file):
    return file.get("image_processor_type", "").endswith(("Fast", "Pil"))


def processor(file, generation):
    """The image processor of the file, as the library itself finds it, on Pillow."""
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        tower = file.get("_tower")
        file = {key: value for key, value in file.items() if key != "_tower"}
        (folder / "preprocessor_config.json").write_text(json.dumps(file))
        if tower:
            (folder / "config.json").write_text(json.dumps({"model_type": tower}))
        if generation == 4:
            return transformers.AutoImageProcessor.from_pretrained(folder, use_fast=False)
        if tower:
            return transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
        name = file.get("image_processor_type") or file["feature_extractor_type"]
        name = name.replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast").removesuffix("Pil") + "Pil"
        return getattr(transformers, name).from_pretrained(folder)


def run(made, picture, **change):
    # The layout is said aloud, because pictures of one or three rows would be taken for planes.
    found = made(picture, input_data_format="channels_last", **change)["pixel_values"][0]
    return np.ascontiguousarray(np.asarray(found))


def checksum(array):
    return hashlib.sha256(array.tobytes()).hexdigest()[:16]


def measure(generation):
    """File -> picture -> what the image processor makes of it, and the pixels apart."""
    cases, tensors = {}, {}
    drawings = pictures()
    for name, file in files().items():
        if generation == 4 and is_fast(file):
            continue
        sine = name.split()[0] in SINES
        whole = "default" in name or "as it is" in name or "no resize" in name
        chosen = FEW if sine else [p for p in drawings if not (whole and p == "1080x1920")]
        results = cases[name] = {}
        try:
            made = processor(file, generation)
        except Exception as error:
            results["error"] = str(error)
            continue
        for picture in chosen:
            try:
                values = run(made, drawings[picture]).astype(np.float32)
            except Exception as error:
                results[picture] = {"error": type(error).__name__}
                continue
            height, width = values.shape[1:]
            if sine:
                pixels = run(made, drawings[picture], do_rescale=False, do_normalize=False)
                tensors[f"{name}/{picture}"] = np.ascontiguousarray(pixels.astype(np.uint8))
            results[picture] = {"size": [height, width], "sha256": checksum(values)}
    return cases, tensors


def compare_fast():
    """How far the torchvision processors of 4.56.2 are from those on Pillow, in grey steps of 255."""
    import torch
    import transformers

    print("file, filter: size, pixels that differ, worst; crops")
    rows = [
        ("ViT", dict(size={"height": 224, "width": 224}, resample=2)),
        ("ViT", dict(size={"height": 224, "width": 224}, resample=3)),
        ("CLIP", dict(size={"shortest_edge": 224}, resample=2, do_center_crop=False)),
        ("CLIP", dict(size={"shortest_edge": 224}, resample=3, do_center_crop=False)),
        ("CLIP", dict(size={"shortest_edge": 224}, resample=3, crop_size={"height": 224, "width": 224})),
        ("DeiT", dict(size={"height": 256, "width": 256}, crop_size={"height": 224, "width": 224})),
        ("Bit", dict(size={"shortest_edge": 256}, do_center_crop=False)),
        ("Siglip", dict(size={"height": 224, "width": 224})),
        ("Beit", dict(size={"height": 256, "width": 256}, crop_size={"height": 224, "width": 224}, do_center_crop=True)),
    ]
    for name, options in rows:
        options |= dict(do_rescale=False, do_normalize=False)
        slow = getattr(transformers, f"{name}ImageProcessor")(**options)
        fast = getattr(transformers, f"{name}ImageProcessorFast")(**options)
        for size in [(480, 640), (1080, 1920), (255, 257), (37, 53), (53, 37)]:
            picture = drawn(*size)
            ours = np.asarray(slow(picture, return_tensors="np")["pixel_values"][0]).astype(int)
            theirs = fast(torch.from_numpy(picture).permute(2, 0, 1), return_tensors="pt")["pixel_values"][0]
            away = np.abs(ours - theirs.numpy().astype(int))
            print(f"{name} {options['resample'] if 'resample' in options else ''} {size}: "
                  f"{(away > 0).mean():.2%} differ, worst {away.max()}, mean {away.mean():.4f}")  # fmt: skip
            assert away.max() <= FAST_WORST and (away > 0).mean() <= FAST_SHARE, (name, options, size)
    sizes = dict(size={"height": 255, "width": 255}, do_rescale=False, do_normalize=False)
    picture = torch.from_numpy(drawn(480, 640)).permute(2, 0, 1)
    fast = transformers.DeiTImageProcessorFast
    whole = fast(**sizes, do_center_crop=False)(picture, return_tensors="pt")["pixel_values"][0]
    cropped = fast(**sizes, crop_size={"height": 224, "width": 224})(picture, return_tensors="pt")["pixel_values"][0]
    # 15 on Pillow.
    assert torch.equal(cropped, whole[:, 16:240, 16:240])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--transformers-5", type=pathlib.Path)
    parser.add_argument("--torchvision", type=pathlib.Path)
    parser.add_argument("--step", choices=["measure", "fast"], help=argparse.SUPPRESS)
    parser.add_argument("--to", type=pathlib.Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step == "fast":
        return compare_fast()
    if args.step == "measure":
        cases, tensors = measure(5)
        args.to.with_suffix(".json").write_text(json.dumps(cases))
        return safetensors.numpy.save_file(tensors, args.to)
    again = lambda folder, *more: subprocess.run(
        [sys.executable, __file__, *more], check=True, env={**os.environ, "PYTHONPATH": str(folder)}
    )
    with tempfile.TemporaryDirectory() as folder:
        to = pathlib.Path(folder) / "newer.safetensors"
        again(args.transformers_5, "--step", "measure", "--to", str(to))
        newer = json.loads(to.with_suffix(".json").read_text())
        newer_tensors = safetensors.numpy.load_file(to)
    older, tensors = measure(4)
    cases = []
    for name, file in files().items():
        results = newer[name] if is_fast(file) else older[name]
        assert "error" not in results, (name, results)
        case = {"name": name, "file": json.dumps({k: v for k, v in file.items() if k != "_tower"}), "results": results}
        if "_tower" in file:
            case["tower"] = file["_tower"]
        tensors |= {key: value for key, value in newer_tensors.items() if is_fast(file) and key.startswith(f"{name}/")}
        if not is_fast(file) and newer[name] != results:
            case["differs_in_transformers_5"] = newer[name].get("error", "other sizes or values")[:80]
            other = [p for p in results if newer[name].get(p) != results[p]]
            print(f"{name}: transformers 5 differs on {len(other)} of {len(results)} pictures: {newer[name].get(other[0])}")
        cases.append(case)
    OUT.mkdir(parents=True, exist_ok=True)
    text = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    (OUT / "cases.json").write_text(f"[\n{text}\n]\n")
    safetensors.numpy.save_file(tensors, OUT / "pixels.safetensors")
    runs = sum(len(case["results"]) for case in cases)
    print(f"{len(cases)} files, {runs} runs, {sum(p.stat().st_size for p in OUT.iterdir())} bytes in {OUT}")
    if args.torchvision:
        again(args.torchvision, "--step", "fast")


if __name__ == "__main__":
    main()
