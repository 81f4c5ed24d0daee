"""The files that compare_onnxruntime.py compares: checkpoints, bundles, ONNX Runtime's own quantised towers.

Each function takes the folder that compare_onnxruntime.py describes and skips existing files.
"""

import json
import pathlib
import shutil
import subprocess

import numpy as np
import onnx

TOKENS = 32
CALIBRATION = 16
DEMO = pathlib.Path(__file__).parents[2] / "model-prep/demo/checkpoint"
# Of make_models.py, which needs PyTorch: what reads pictures and composes checkpoints imports it when it is called.
COMPOSED = ["vit-b16", "vit-b32", "deit-tiny"]
NAMES = [*COMPOSED, "demo"]
# Products with weights only. With attention's products and additions ONNX Runtime is slower and less exact.
STATIC_OPS = ["MatMul", "Gemm", "Conv"]


def make(args):
    from make_models import composed, read_pictures

    pictures = read_pictures(args.pictures, 2 * CALIBRATION)
    for name in COMPOSED:
        folder = args.work / "checkpoints" / name
        if not folder.exists():
            whole_or_not(folder, lambda path: composed(name, path, pictures, args.minilm))
    demo = args.work / "checkpoints/demo"
    if not demo.exists():
        whole_or_not(demo, lambda path: shutil.copytree(args.demo, path))


def whole_or_not(path, write):
    """Lets `write` write to a temporary path, and renames that."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"partial-{path.name}")
    if partial.is_dir():
        shutil.rmtree(partial)
    write(partial)
    partial.rename(path)


def export(args, names=NAMES):
    for name in names:
        for weights in ["int8", "f32"]:
            bundle = args.work / f"bundles/{name}-{weights}"
            checkpoint = args.work / "checkpoints" / name
            command = [args.model_prep, "export", checkpoint, "--weights", weights, "--name", name, "--out"]
            if not bundle.exists():
                whole_or_not(bundle, lambda path: subprocess.run([*command, path], check=True))


def tokenize(work, name, texts, **options):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(work / "checkpoints" / name)
    return [with_positions({key: np.asarray(value)[None] for key, value in tokenizer(text, truncation=True, **options).items()})
            for text in texts]


def with_positions(feed):
    """Adds the position ids that the bundles' text towers take, from 0."""
    ids = feed["input_ids"]
    return feed | {"position_ids": np.broadcast_to(np.arange(ids.shape[1], dtype=np.int64), ids.shape)}


def manifest_of(work, name):
    return json.loads((work / f"bundles/{name}-f32/bundle.json").read_text(encoding="utf-8"))


def pixels_of(work, name, pictures):
    """What the bundle's manifest says to do with pictures, for the manifests that NAMES have."""
    from PIL import Image

    preprocess = manifest_of(work, name)["preprocess"]
    assert preprocess["crop"] is None and preprocess["resize"]["filter"] == "bilinear", preprocess
    size = preprocess["resize"]["to"]["exact"]
    mean, std = (np.asarray(preprocess["normalize"][key], np.float32) for key in ["mean", "std"])
    for picture in pictures:
        values = np.asarray(picture.resize((size["width"], size["height"]), Image.Resampling.BILINEAR), np.float32)
        values = (values * np.float32(preprocess["rescale_factor"]) - mean) / std
        yield np.ascontiguousarray(values.transpose(2, 0, 1)[None])


class Calibration:
    """The calibration inputs of quantize_static."""

    def __init__(self, source, feeds):
        names = [value.name for value in onnx.load(source, load_external_data=False).graph.input]
        self.feeds = iter([{name: feed[name] for name in names} for feed in feeds])

    def get_next(self):
        return next(self.feeds, None)


def torch_export(work, name, tower, path):
    """The graph that torch.onnx.export writes of one tower of the transformers model."""
    import torch
    from transformers import VisionTextDualEncoderModel

    class Tower(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, *inputs):
            if tower == "vision":
                return self.model.get_image_features(pixel_values=inputs[0])
            return self.model.get_text_features(**dict(zip(names, inputs)))

    model = VisionTextDualEncoderModel.from_pretrained(work / "checkpoints" / name, attn_implementation="eager")
    inputs = fixed_inputs(work, name, tower)
    # transformers counts positions itself.
    inputs.pop("position_ids", None)
    names = list(inputs)
    output = "image_embeds" if tower == "vision" else "text_embeds"
    torch.onnx.export(
        Tower(model).eval(), tuple(torch.from_numpy(value) for value in inputs.values()), path,
        input_names=names, output_names=[output], opset_version=18, dynamo=True, external_data=False)


def quantized(source, prefix, feeds, folder):
    """Writes the quantised twins of `source` into `folder`, their names starting with `prefix`."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    kinds = {"dynamic": None, "static": STATIC_OPS}
    if "vision" in prefix:
        kinds["dynamic-matmul"] = ["MatMul", "Gemm"]
    kinds = {folder / f"{prefix}{kind}.onnx": (kind, ops) for kind, ops in kinds.items()}
    if all(path.exists() for path in kinds):
        return
    print(source, flush=True)
    simplified = folder / "simplified.onnx"
    quant_pre_process(str(source), str(simplified), skip_symbolic_shape=True)
    weights = {"weight_type": QuantType.QInt8, "per_channel": True}
    for path, (kind, ops) in kinds.items():
        if path.exists():
            continue
        if kind == "static":
            options = {"quant_format": QuantFormat.QDQ, "activation_type": QuantType.QUInt8, **weights}
            write = lambda path: quantize_static(
                simplified, path, Calibration(simplified, feeds), op_types_to_quantize=ops, **options)
        else:
            write = lambda path: quantize_dynamic(simplified, path, op_types_to_quantize=ops, **weights)
        whole_or_not(path, write)
    simplified.unlink()


def onnxruntime_files(args):
    from make_models import long_captions, read_captions, read_pictures

    (args.work / "ort").mkdir(exist_ok=True)
    pictures = read_pictures(args.pictures, CALIBRATION)
    for name in NAMES:
        for tower in ["vision", "text"]:
            if tower == "vision":
                feeds = [{"pixel_values": pixels} for pixels in pixels_of(args.work, name, pictures)]
            else:
                texts = [*read_captions()[: CALIBRATION // 2], *long_captions(read_captions(), CALIBRATION // 2)]
                feeds = tokenize(args.work, name, texts, padding="max_length", max_length=TOKENS)
            quantized(file_of(args.work, name, tower, "float"), f"{name}-{tower}-", feeds, args.work / "ort")
            if args.torch_export:
                source = file_of(args.work, name, tower, "torch-float")
                if not source.exists():
                    whole_or_not(source, lambda path: torch_export(args.work, name, tower, path))
                quantized(source, f"{name}-{tower}-torch-", feeds, args.work / "ort")


def file_of(work, name, tower, kind):
    if kind == "float":
        return work / f"bundles/{name}-f32/{tower}.onnx"
    return work / f"ort/{name}-{tower}-{kind}.onnx"


def fixed_inputs(work, name, tower):
    """One image of noise, or TOKENS tokens without padding."""
    if tower == "vision":
        size = manifest_of(work, name)["preprocess"]["resize"]["to"]["exact"]
        shape = (1, 3, size["height"], size["width"])
        return {"pixel_values": np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)}
    ids = 1000 + 37 * np.arange(TOKENS, dtype=np.int64)[None]
    return with_positions({"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)})


def of_the_demo(args):
    """All files of the demo alone, without a package that the gate does not have, calibrated to the fixed inputs."""
    args.demo = DEMO
    if not (args.work / "checkpoints/demo").exists():
        whole_or_not(args.work / "checkpoints/demo", lambda path: shutil.copytree(args.demo, path))
    export(args, ["demo"])
    (args.work / "ort").mkdir(exist_ok=True)
    for tower in ["vision", "text"]:
        feeds = [fixed_inputs(args.work, "demo", tower)]
        quantized(file_of(args.work, "demo", tower, "float"), f"demo-{tower}-", feeds, args.work / "ort")
