"""The sentences of the training: labels and their templates, nouns, phrases of drawn shapes."""

import collections
import functools
import itertools
import pathlib
import re

COLOURS = "red green blue yellow orange purple white black".split()
SHAPES = "circle square triangle star cross heart".split()

# Templates of a label's sentences: what people write, and the template in the bundle.
TEMPLATES = [
    "{}", "a {}", "the {}", "a photo of a {}.", "a photo of the {}.", "a picture of a {}", "a close-up photo of a {}",
    "an image showing {}", "there is a {} in the scene", "a blurry photo of a {}.", "{} outdoors", "a small photo of {}",
]
BUNDLE_TEMPLATE = "a photo of a {}."

SHAPE_TEMPLATES = [
    "{}", "a {}", "one {}", "a photo of a {}.", "a drawing of a {}", "a picture of one {}", "a {} on a plain background",
    "a big {}", "a small {}", "a painted {}",
]

# What a camera at home, at a door or on a desk sees: words for the text tower, with or without photographs.
EVERYDAY = """
airplane automobile bird cat deer dog frog horse ship truck car bicycle motorcycle bus train boat van taxi scooter
tractor person man woman child baby boy girl face hand foot eye people crowd family chair table sofa bed lamp desk shelf
cupboard drawer mirror clock book newspaper letter parcel box cup mug glass bottle bowl plate fork knife spoon pan pot
kettle oven fridge sink tap towel soap phone laptop keyboard mouse screen monitor printer cable camera television radio
headphones window door key lock stairs wall floor roof house garage building bridge street road pavement garden fence gate
tree bush flower grass leaf field forest mountain hill river lake sea beach sky cloud sun moon star snow ice rain fog fire
smoke water stone sand food bread cheese egg cake pizza sandwich soup salad apple banana orange pear grape strawberry lemon
carrot tomato potato onion pepper mushroom coffee tea milk wine beer cow sheep pig goat chicken duck goose fish shark whale
dolphin snake lizard turtle spider ant bee fly butterfly beetle worm lion tiger bear wolf fox rabbit squirrel mouse rat
hedgehog elephant giraffe zebra monkey camel kangaroo penguin owl eagle pigeon parrot kitten puppy pony calf lamb ball bat
racket kite toy doll teddy puzzle guitar piano violin drum trumpet umbrella bag backpack suitcase hat cap helmet coat jacket
shirt dress skirt trousers jeans shoe boot sock glove scarf tie glasses sunglasses watch ring necklace pen pencil paper
scissors tape hammer screwdriver saw drill ladder rope bucket broom bin candle balloon flag sign lamp post bench statue
swimming pool playground football basketball tennis surfing skiing skateboard running jumping climbing swimming sleeping
eating drinking reading cooking dancing smiling empty room kitchen bathroom bedroom office shop market station airport
""".split()

# WordNet's lexicographer files of visible things: animals, artifacts, bodies, food, objects, people, plants, substances.
SEEN = {"05", "06", "08", "13", "17", "18", "20", "27"}
# Largest number of senses of a noun, and of hyponyms, that are used.
SENSES_MAX, KINDS_MAX = 3, 12


def classes(path):
    """The names of each class of `tiny-imagenet-classes.tsv`: {folder: [name, ...]}."""
    lines = (line.split("\t") for line in pathlib.Path(path).read_text().splitlines() if line)
    return {folder: [name.strip() for name in names.split(",")] for folder, names in lines}


@functools.cache
def unseen():
    """The words of `unseen.tsv`, and the class that each stands for: [(folder, word)]."""
    lines = (pathlib.Path(__file__).parent / "unseen.tsv").read_text().splitlines()
    return [tuple(line.split("\t")) for line in lines]


def unseen_in(text):
    """The words of `unseen.tsv` that a text contains, as they are or with an s."""
    found = set(re.findall(r"[a-z]+", text.lower()))
    return [word for _, word in unseen() if word in found or word + "s" in found]


def synsets(folder):
    """WordNet's synsets of nouns: (offset, lexicographer file, lemmas, {pointer symbol: [offset]}, gloss). FOLDER has
    `data.noun`."""
    for line in (pathlib.Path(folder) / "data.noun").read_text().splitlines():
        if line.startswith("  "):
            continue
        synset, _, gloss = line.partition(" | ")
        fields = synset.split()
        number = int(fields[3], 16)
        lemmas = [lemma.replace("_", " ") for lemma in fields[4:4 + 2 * number:2]]
        # Each pointer is a symbol, an offset, a part of speech, and the words it is about.
        rest, pointers = fields[5 + 2 * number:], collections.defaultdict(list)
        for symbol, to in zip(rest[::4], rest[1::4]):
            pointers[symbol].append(to)
        yield fields[0], fields[1], lemmas, pointers, gloss


def nouns(folder):
    """WordNet's nouns of visible things with related sentences: {noun: {noun or definition: weight}}; and the definitions, which
    begin with a noun. FOLDER has `data.noun` and `index.noun`.

    Related are synonyms, the definition, hypernyms, and hyponyms one and two levels down; rarer senses have lower weights.
    """
    meanings = {}
    for offset, file, lemmas, pointers, gloss in synsets(folder):
        if file not in SEEN:
            continue
        lemmas = [lemma for lemma in lemmas if re.fullmatch(r"[a-z]+(?:[ -][a-z]+){0,2}", lemma)]
        definition = re.sub(r"\(.*?\)", "", gloss).split(";")[0].strip()
        defined = [f"{lemmas[0]}, {definition}"] if lemmas and 2 < len(definition.split()) < 16 else []
        meanings[offset] = lemmas, defined, pointers["@"], pointers["~"]

    def heads(offsets):
        return [meanings[to][0][0] for to in offsets if to in meanings and meanings[to][0]][:KINDS_MAX]

    like, definitions = {}, set()
    for line in (pathlib.Path(folder) / "index.noun").read_text().splitlines():
        if line.startswith("  "):
            continue
        fields = line.split()
        noun = fields[0].replace("_", " ")
        # The most common sense comes first.
        senses = [to for to in fields[-int(fields[2]):] if to in meanings and noun in meanings[to][0]]
        for rank, (lemmas, defined, above, below) in enumerate(meanings[to] for to in senses):
            definitions.update(defined)
            far = [to for kind in below if kind in meanings for to in meanings[kind][3]]
            of_noun = like.setdefault(noun, {})
            for group in (lemmas, defined, heads(above), heads(below), heads(far)) if rank < SENSES_MAX else ():
                for word in group:
                    if word != noun:
                        of_noun[word] = of_noun.get(word, 0.0) + 1 / len(group) / (1 + rank)
    return like, sorted(definitions)


def shape_phrases():
    """Phrases with the colour and the shape that they name, one of which may be None: [(phrase, colour, shape)]."""
    pairs = itertools.product(COLOURS + [None], SHAPES + [None])
    named = []
    for colour, shape in pairs:
        if colour is None and shape is None:
            continue
        thing = " ".join([colour or "", shape or "thing"]).strip()
        named += [(template.format(thing), colour, shape) for template in SHAPE_TEMPLATES]
    return named
