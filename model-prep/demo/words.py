"""The sentences that the towers are taught: labels and their templates, nouns, phrases of drawn shapes."""

import itertools
import pathlib
import random
import re

COLOURS = "red green blue yellow orange purple white black".split()
SHAPES = "circle square triangle star cross heart".split()

# A label's sentences; what people write, and the template that stands in the bundle.
TEMPLATES = [
    "{}", "a {}", "the {}", "a photo of a {}.", "a photo of the {}.", "a picture of a {}", "a close-up photo of a {}",
    "an image showing {}", "there is a {} in the scene", "a blurry photo of a {}.", "{} outdoors", "a small photo of {}",
]
BUNDLE_TEMPLATE = "a photo of a {}."

SHAPE_TEMPLATES = [
    "{}", "a {}", "one {}", "a photo of a {}.", "a drawing of a {}", "a picture of one {}", "a {} on a plain background",
    "a big {}", "a small {}", "a painted {}",
]

# What a camera at home, at a door or on a desk sees; words for the text tower, whether a photograph shows them or not.
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

# WordNet's files of nouns for what can be seen: animals, artifacts, bodies, food, objects, people, plants, substances.
SEEN = {"05", "06", "08", "13", "17", "18", "20", "27"}


def classes(path):
    """The names of each class of `tiny-imagenet-classes.tsv`: {folder: [name, ...]}."""
    lines = (line.split("\t") for line in pathlib.Path(path).read_text().splitlines() if line)
    return {folder: [name.strip() for name in names.split(",")] for folder, names in lines}


def nouns(path, number, seed=0):
    """`number` nouns of WordNet's `data.noun` that name what can be seen, and as many definitions."""
    words, definitions = set(), set()
    for line in pathlib.Path(path).read_text().splitlines():
        if line.startswith("  "):
            continue
        synset, _, gloss = line.partition(" | ")
        fields = synset.split()
        if fields[1] not in SEEN:
            continue
        lemmas = [fields[4 + 2 * i].replace("_", " ") for i in range(int(fields[3], 16))]
        lemmas = [lemma for lemma in lemmas if re.fullmatch(r"[a-z]+(?:[ -][a-z]+){0,2}", lemma)]
        words.update(lemmas)
        definition = re.sub(r"\(.*?\)", "", gloss).split(";")[0].strip()
        if lemmas and 2 < len(definition.split()) < 16:
            definitions.add(f"{lemmas[0]}, {definition}")
    draw = random.Random(seed)
    return tuple(draw.sample(sorted(found), min(number, len(found))) for found in (words, definitions))


def shape_phrases():
    """Phrases with the colour and the shape that they name, either of which may be None: [(phrase, colour, shape)]."""
    pairs = itertools.product(COLOURS + [None], SHAPES + [None])
    named = []
    for colour, shape in pairs:
        if colour is None and shape is None:
            continue
        thing = " ".join([colour or "", shape or "thing"]).strip()
        named += [(template.format(thing), colour, shape) for template in SHAPE_TEMPLATES]
    return named
