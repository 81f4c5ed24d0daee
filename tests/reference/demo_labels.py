"""Measures which everyday things the demo model tells apart, by the labels of config/demo/everyday.toml.

    python demo_labels.py table --spotter SPOTTER --photographs FOLDER [--labels FILE]
    python demo_labels.py small --spotter SPOTTER      # the same on a few grey pictures, for the tests

FOLDER has the photographs that the demo model was measured with, unpacked or as zips: tiny-imagenet-val and
flickr8k-96-val, with tiny-imagenet-classes.tsv beside them. Classes of Tiny-ImageNet are put together to everyday things
(THINGS); classes that are in no group are what is there when nothing is. A photograph of Flickr8k shows a person if two of its
five captions name one. Photographs are labelled by `spotter classify`, so this measures what a user sees, frame by frame,
without smoothing.

Printed are, for each label: how many photographs of the thing reach the default threshold, how many of other photographs do,
and how often the label is the best one; then the matrix of best labels, by rows.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
THRESHOLD = 0.6
NOTHING = "(anything else)"
THINGS = {
    "dog": ["German shepherd", "Labrador retriever", "golden retriever", "Yorkshire terrier", "Chihuahua", "standard poodle"],
    "cat": ["Egyptian cat", "tabby", "Persian cat"],
    "bird": ["albatross", "king penguin", "goose", "black stork"],
    "insect or spider": [
        *["ladybug", "bee", "fly", "grasshopper", "mantis", "dragonfly", "cockroach", "monarch", "sulphur butterfly"],
        *["tarantula", "black widow", "centipede", "scorpion", "walking stick"],
    ],
    "vehicle": [
        *["sports car", "convertible", "limousine", "beach wagon", "school bus", "trolleybus", "freight car"],
        *["bullet train", "moving van", "police van"],
    ],
    "food": ["pizza", "potpie", "mashed potato", "meat loaf", "guacamole", "plate", "ice cream"],
    "fruit": ["banana", "orange", "lemon", "pomegranate"],
    "computer": ["computer keyboard"],
    "furniture": ["desk", "dining table", "rocking chair", "refrigerator", "chest"],
}
# Where photographs of these classes are taken.
PLACES = {
    "indoors": ["desk", "dining table", "refrigerator", "bathtub", "barbershop", "altar", "rocking chair", "organ"],
    "outdoors": [
        *["seashore", "lakeside", "alp", "cliff", "suspension bridge", "steel arch bridge", "viaduct", "barn", "fountain"],
        *["water tower", "picket fence", "dam", "triumphal arch", "parking meter", "trolleybus", "school bus", "bison"],
    ],
}
# Neither shown by a label nor nothing: people wear or hold these, they are vehicles, animals or food of another kind.
MIXED = {
    *["academic gown", "apron", "backpack", "bikini", "cardigan", "fur coat", "kimono", "military uniform", "miniskirt"],
    *["poncho", "sombrero", "swimming trunks", "bow tie", "neck brace", "gasmask", "sunglasses", "snorkel", "vestment"],
    *["go-kart", "jinrikisha", "tractor", "crane", "Arabian camel", "confectionery", "butcher shop", "barbershop"],
    *["dam", "gondola", "lifeboat", "snail", "slug", "rugby ball", "volleyball", "basketball", "scoreboard", "punching bag", "bell pepper"],
    *["cauliflower", "pretzel", "espresso", "ice lolly", "acorn", "mushroom", "iPod", "coral reef", "fountain"],
    *["brown bear", "lesser panda", "cougar", "lion", "chimpanzee", "orangutan", "baboon", "gazelle", "bison", "ox"],
    *["bighorn", "hog", "guinea pig", "koala", "African elephant", "dugong", "lawn mower", "bannister", "cliff dwelling"],
}
PERSON = (
    "man|men|woman|women|boy|boys|girl|girls|child|children|people|person|kid|kids|baby|toddler|lady|guy|player|players|crowd"
    "|couple|rider|skateboarder|surfer|climber|biker|skier|snowboarder"
)


def unpacked(folder, name, scratch):
    """The folder of a set, which may be a zip."""
    if (folder / name).is_dir():
        return folder / name
    with zipfile.ZipFile(folder / f"{name}.zip") as archive:
        archive.extractall(scratch / name)
    return scratch / name


def photographs(folder, scratch):
    """Path, truth and place of each photograph: a label or NOTHING, and an answer; None for what cannot be said."""
    names = {}
    for line in (folder / "tiny-imagenet-classes.tsv").read_text(encoding="utf-8").splitlines():
        wnid, synonyms = line.split("\t")
        names[wnid] = synonyms.split(",")[0]
    things, places = ({name: key for key, classes in groups.items() for name in classes} for groups in (THINGS, PLACES))
    found = []
    for path in sorted(unpacked(folder, "tiny-imagenet-val", scratch).glob("*/*.webp")):
        name = names[path.parent.name]
        found.append((path, things.get(name, None if name in MIXED else NOTHING), places.get(name)))
    flickr, captions = unpacked(folder, "flickr8k-96-val", scratch), {}
    for line in (flickr / "captions.tsv").read_text(encoding="utf-8").splitlines():
        name, caption = line.split("\t")
        captions.setdefault(name, []).append(caption.lower())
    for name, lines in sorted(captions.items()):
        words = {"person": PERSON, "dog": "dog|dogs|puppy"}
        counts = {key: sum(bool(re.search(rf"\b({of})\b", line)) for line in lines) for key, of in words.items()}
        shown = [key for key, count in counts.items() if count >= 2]
        # With both, either is right.
        if len(shown) == 1:
            found.append((flickr / name, shown[0], None))
    return found


def grey_pictures(scratch):
    """A few pictures as above, whose truth is made up."""
    found = []
    for number, truth in enumerate([("dog", "outdoors"), ("person", "indoors"), (NOTHING, None), (None, "indoors")]):
        path = scratch / f"{number}.ppm"
        path.write_bytes(b"P6 64 64 255\n" + bytes([60 * number + 40]) * (3 * 64 * 64))
        found.append((path, *truth))
    return found


def classified(spotter, labels, paths, scratch):
    """By path: the probabilities of the labels outside of questions, and of the answers of the question "place"."""
    environment = dict(os.environ, STATE_DIRECTORY=str(scratch / "state"))
    command = [spotter, "classify", "--bundle", ROOT / "config/demo", "--labels", labels, "--json", "--top-k", "1000", *paths]
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=True)
    found = {}
    for line in map(json.loads, done.stdout.splitlines()):
        scores = {None: {}, "place": {}}
        for label in line["labels"]:
            scores[label.get("question")][label["name"]] = label["probability"]
        found[line["path"]] = scores
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("form", choices=["table", "small"])
    parser.add_argument("--spotter", required=True)
    parser.add_argument("--photographs", type=pathlib.Path)
    parser.add_argument("--labels", type=pathlib.Path, default=ROOT / "config/demo/everyday.toml")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        pictures = grey_pictures(scratch) if args.form == "small" else photographs(args.photographs, scratch)
        found = classified(args.spotter, args.labels, [path for path, *_ in pictures], scratch)
        report([(truth, found[str(path)][None]) for path, truth, _ in pictures if truth])
        report([(place, found[str(path)]["place"]) for path, _, place in pictures if place])


def report(rows):
    """Prints both tables; `rows` are truths with probabilities."""
    labels = sorted(rows[0][1])
    truths = [*labels, NOTHING]
    best = {}
    print("| label | photographs | reach the threshold | of others | is the best |")
    print("|---|---|---|---|---|")
    for truth, scores in rows:
        name = max(scores, key=scores.get)
        # What reaches its threshold nowhere is nothing.
        name = name if scores[name] >= THRESHOLD else NOTHING
        best[truth, name] = best.get((truth, name), 0) + 1
    for label in labels:
        shown = [scores for truth, scores in rows if truth == label]
        others = [scores for truth, scores in rows if truth != label]
        reached = share(scores[label] >= THRESHOLD for scores in shown)
        wrong = share(scores[label] >= THRESHOLD for scores in others)
        print(f"| {label} | {len(shown)} | {reached} | {wrong} | {share(max(s, key=s.get) == label for s in shown)} |")
    print("\nbest label that reaches the threshold, in percent of the photographs of a row:\n")
    columns = [*labels, NOTHING]
    print("| shown | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for truth in truths:
        total = sum(count for (shown, _), count in best.items() if shown == truth)
        if total:
            cells = (f"{100 * best.get((truth, column), 0) / total:.0f}" for column in columns)
            print(f"| {truth} ({total}) | " + " | ".join(cells) + " |")
    print()


def share(answers):
    """How many are true, in percent."""
    answers = list(answers)
    return f"{100 * sum(answers) / len(answers):.0f} %" if answers else "none"


if __name__ == "__main__":
    sys.exit(main())
