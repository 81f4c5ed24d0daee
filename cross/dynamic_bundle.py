"""Copies a float bundle with the vision tower quantised by ONNX Runtime's quantize_dynamic, for comparison.

    python3 dynamic_bundle.py FLOAT_BUNDLE NEW_BUNDLE

Needs the packages onnx and onnxruntime.
"""

import hashlib
import json
import pathlib
import shutil
import sys

from onnxruntime.quantization import QuantType, quantize_dynamic

source, bundle = map(pathlib.Path, sys.argv[1:])
shutil.copytree(source, bundle)
vision = bundle / "vision.onnx"
quantize_dynamic(source / "vision.onnx", vision, weight_type=QuantType.QInt8, per_channel=True)
manifest = json.loads((bundle / "bundle.json").read_text())
content = vision.read_bytes()
manifest["vision"]["file"] |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
(bundle / "bundle.json").write_text(json.dumps(manifest, indent=2))
