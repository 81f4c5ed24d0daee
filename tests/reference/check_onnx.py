"""Checks the ONNX files of bundles with the onnx package and runs them in ONNX Runtime.

    python check_onnx.py BUNDLE[=GOLDENS.safetensors]...

onnx.checker must accept both towers, including shape inference. If a file is given, both towers run on its pixel_values,
input_ids, attention_mask, token_type_ids and position_ids (from 0 if the file has none), the whole batch at once and then row by
row (to test the dynamic axes), and must come within 1e-4 of its image_embeds and text_embeds: the reference's for a float bundle,
the engine's for an int8 one. Versions: requirements.txt beside this file. Exit code 1 if anything fails.
"""

import json
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime
from safetensors.numpy import load_file

WORST_DIFFERENCE = 1e-4


def session(path):
    options = onnxruntime.SessionOptions()
    # By default ONNX Runtime also quantises the activations before int8 weights; 1 means as the file says.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def compare(path, inputs, expected):
    run = session(path)
    names = [i.name for i in run.get_inputs()]
    whole = run.run(None, {name: inputs[name] for name in names})[0]
    rows = [run.run(None, {name: inputs[name][i : i + 1] for name in names})[0] for i in range(len(whole))]
    passed = True
    for what, found in [("batch", whole), ("single rows", np.concatenate(rows))]:
        worst = np.abs(found - expected).max()
        fits = worst <= WORST_DIFFERENCE
        passed &= bool(fits)
        print(f"{path}: {what}: worst difference {worst:.2e}{'' if fits else ' FAILED'}")
    return passed


def main():
    passed = True
    for argument in sys.argv[1:]:
        bundle, _, goldens = argument.partition("=")
        bundle = pathlib.Path(bundle)
        manifest = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
        for tower, output in [("vision", "image_embeds"), ("text", "text_embeds")]:
            path = bundle / manifest[tower]["file"]["name"]
            onnx.checker.check_model(str(path), full_check=True)
            print(f"{path}: accepted by onnx.checker")
            if goldens:
                tensors = load_file(goldens)
                ids = tensors["input_ids"]
                tensors.setdefault("position_ids", np.broadcast_to(np.arange(ids.shape[1]), ids.shape))
                passed &= compare(path, tensors, tensors[output])
            else:
                session(path)
    sys.exit(not passed)


if __name__ == "__main__":
    main()
