"""Times Spotter's image tower against ONNX Runtime, interleaved in one run.

    [FLOAT_BUNDLE=DIR] bench_towers.py SPOTTER BUNDLE [ROUNDS [BENCH_OPTION...]]

Each round runs `spotter bench` once (200 frames, one thread; its median counts), then as many passes of each ONNX
Runtime session (one thread, spinning allowed): the bundle's own file and, where FLOAT_BUNDLE names a float bundle of the
same checkpoint, its float file and the twin that `quantize_dynamic` makes of it (s8 weights, per channel). Prints the
medians over the rounds, the ratio of Spotter's to each, and Spotter's other stages. Needs numpy, onnx and onnxruntime.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnxruntime as ort
from onnxruntime.quantization import QuantType, quantize_dynamic

PASSES = 200


def session(path):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def median_ms(run, pixels):
    times = []
    for _ in range(PASSES):
        start = time.perf_counter()
        run.run(None, {"pixel_values": pixels})
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def main():
    spotter, bundle = sys.argv[1:3]
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 7
    sessions = {"ONNX Runtime, same file": session(f"{bundle}/vision.onnx")}
    with tempfile.TemporaryDirectory() as folder:
        float_bundle = os.environ.get("FLOAT_BUNDLE")
        if float_bundle:
            twin = f"{folder}/dynamic.onnx"
            quantize_dynamic(f"{float_bundle}/vision.onnx", twin, weight_type=QuantType.QInt8, per_channel=True)
            sessions["ONNX Runtime, dynamic int8"] = session(twin)
            sessions["ONNX Runtime, float"] = session(f"{float_bundle}/vision.onnx")
    shape = [1, *next(iter(sessions.values())).get_inputs()[0].shape[1:]]
    pixels = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    for run in sessions.values():
        median_ms(run, pixels)
    ours, stages, theirs = [], [], {name: [] for name in sessions}
    for _ in range(rounds):
        out = subprocess.run(
            [spotter, "bench", "--json", "--threads", "1", "--frames", str(PASSES), "--bundle", bundle,
             *sys.argv[4:]],
            check=True, capture_output=True,
        )
        result = json.loads(out.stdout)
        stages.append({name: value["median"] for name, value in result["stages_ms"].items()})
        ours.append(stages[-1]["tower"])
        for name, run in sessions.items():
            theirs[name].append(median_ms(run, pixels))
    print(f"ONNX Runtime {ort.__version__}, {rounds} rounds of {PASSES} passes, one thread")
    print(f"{'Spotter':28} {statistics.median(ours):8.3f} ms")
    for name, times in theirs.items():
        ratio = statistics.median(a / b for a, b in zip(ours, times))
        print(f"{name:28} {statistics.median(times):8.3f} ms   Spotter / this {ratio:.2f}")
    for name in stages[0]:
        print(f"  stage {name:12} {statistics.median(s[name] for s in stages):8.3f} ms")


if __name__ == "__main__":
    main()
