"""Times the passes of an ONNX file in another runtime, in a process of its own, so that its memory and its load are its own.

    runtime_passes.py {ort,openvino} FILE --threads N --inputs FILE.npz

Speaks the protocol of `spotter bench --stdin`: a line that says it is ready, with the time from opening the file to the first
result and the memory that this took beyond Python and the runtime, then for each line that holds a count one line `{"ms":[...]}`
with the time of each pass, until the input ends.
"""

import argparse
import json
import pathlib
import sys
import time

import numpy as np


class OnnxRuntime:
    """A model in ONNX Runtime. `fixed` are sizes of named dimensions."""

    def __init__(self, path, threads, fixed=None, entries=()):
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        for key, value in entries:
            options.add_session_config_entry(key, value)
        for name, size in (fixed or {}).items():
            options.add_free_dimension_override_by_name(name, size)
        self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.names = [value.name for value in self.session.get_inputs()]

    def run(self, inputs):
        return self.session.run(None, {name: inputs[name] for name in self.names})[0]


class OpenVino:
    """A model in OpenVINO, whose activations stay in 32-bit floats where the file does not say otherwise."""

    def __init__(self, path, threads, shapes):
        import openvino

        core = openvino.Core()
        model = core.read_model(path)
        self.names = [value.any_name for value in model.inputs]
        model.reshape({name: list(shapes[name]) for name in self.names})
        settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
                    "INFERENCE_PRECISION_HINT": "f32"}
        self.request = core.compile_model(model, "CPU", settings).create_infer_request()

    def run(self, inputs):
        return self.request.infer({name: inputs[name] for name in self.names})[0]


def memory():
    """Resident memory and its peak in bytes."""
    status = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
    return [1024 * int(status[key].split()[0]) for key in ("VmRSS", "VmHWM")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runtime", choices=["ort", "openvino"])
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--inputs", type=pathlib.Path, required=True)
    args = parser.parse_args()
    inputs = dict(np.load(args.inputs))
    # What importing takes is not the model's.
    if args.runtime == "ort":
        import onnxruntime  # noqa: F401
    else:
        import openvino

        openvino.Core()
    before, _ = memory()
    start = time.perf_counter()
    if args.runtime == "ort":
        tokens = {"sequence": inputs["input_ids"].shape[1]} if "input_ids" in inputs else {}
        model = OnnxRuntime(args.file, args.threads, {"batch": 1, **tokens})
    else:
        model = OpenVino(args.file, args.threads, {name: value.shape for name, value in inputs.items()})
    model.run(inputs)
    load_ms = (time.perf_counter() - start) * 1e3
    rss, peak = memory()
    ready = {"ready": True, "load_ms": load_ms, "rss_bytes": rss - before, "peak_rss_bytes": peak - before,
             "file_bytes": args.file.stat().st_size}
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            start = time.perf_counter()
            model.run(inputs)
            times.append((time.perf_counter() - start) * 1e3)
        print(json.dumps({"ms": times}), flush=True)


if __name__ == "__main__":
    main()
