"""Writes the test sets of words that do not occur in the image tower's training: four sets of ten words of unseen.tsv.

    python unseen.py --data PHOTOS --out FOLDER

Writes FOLDER/1 to FOLDER/4, each a folder for `model-prep evaluate`: the validation photographs of ten classes, and a
classes.tsv with the unseen word of each. Fails if a word occurs in a caption or in the name of a class."""

import argparse
import pathlib
import zipfile

import words
from photos import CAPTIONS

GROUP = 10


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    classes = words.classes(arguments.data / "tiny-imagenet-classes.tsv")
    with zipfile.ZipFile(arguments.data / "flickr8k-96-train.zip") as archive:
        captions = archive.read(CAPTIONS).decode()
    texts = [line.split("\t")[1] for line in captions.splitlines()] + [name for names in classes.values() for name in names]
    known = words.unseen_in(" ".join(texts))
    if known:
        raise SystemExit(f"unseen.tsv: expected words that no training text has, found {', '.join(known)}")
    unseen = words.unseen()
    with zipfile.ZipFile(arguments.data / "tiny-imagenet-val.zip") as archive:
        for at in range(0, len(unseen), GROUP):
            folder = arguments.out / str(at // GROUP + 1)
            group = dict(unseen[at:at + GROUP])
            members = [name for name in archive.namelist() if name.split("/")[0] in group]
            archive.extractall(folder, members)
            (folder / "classes.tsv").write_text("".join(f"{key}\t{word}\n" for key, word in group.items()))


if __name__ == "__main__":
    main()
