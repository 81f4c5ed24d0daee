"""Step 5: trains both towers together with a contrastive loss between the images and sentences of a batch, plus the softmax
over classes of step 4. Some images are downsampled.

    python tune.py --data PHOTOS --work WORK [--preset cpu|gpu] [--minutes M]

Reads the output of text.py and image.py; writes WORK/tuned-PRESET.pt and resumes from it. The photographs of a batch are of
different classes, so that each has only one right sentence."""

import argparse
import pathlib

import numpy
import torch
import torch.nn.functional as F

import augment
import image
import towers
import training
import words
from text import Tokens

# Number of images of each kind in a batch.
MIX = {"classes": 100, "captions": 64, "shapes": 24}
# Share of images that are downsampled, like those of small or distant things.
COARSE = 0.35
# Number of other sentences in a batch, which keep the text tower close to its teacher.
HELD_TO_TEACHER = {"nouns": 48, "definitions": 16, "labels": 32}


def load(module, path):
    """Loads the averaged weights of an earlier step."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    module.load_state_dict(state["averaged"])
    return module


def sentences(tower, tokens, rows):
    return tower(*tokens.batch(rows))


def batch_of(pictures, tokens, prompts, random, side):
    """Pixels, the row of each image's sentence, and the classes of the photographs, which come first."""
    few = random.choice(len(prompts.of_class), MIX["classes"], replace=False)
    chosen = numpy.array([random.choice(pictures.of_class[k]) for k in few])
    captioned = random.choice(len(pictures.captioned), MIX["captions"], replace=False)
    shown = random.choice(len(prompts.of_shape), MIX["shapes"], replace=False)
    drawn = numpy.array([random.choice(pictures.of_shape[k]) for k in shown])
    pixels = torch.cat([
        pictures.changed(pictures.pictures[chosen], side, random),
        pictures.changed(pictures.captioned[captioned], side, random),
        pictures.changed(pictures.shapes["full"][0][drawn], side, random, crop=False),
    ])
    rows = [random.choice(prompts.of_class[k]) for k in few]
    rows += [prompts.caption[random.choice(pictures.captions[k])] for k in captioned]
    rows += [random.choice(prompts.of_shape[k]) for k in shown]
    return augment.coarse(pixels, COARSE), numpy.array(rows), few


@torch.no_grad()
def prototypes(tower, tokens, prompts):
    """The text tower's prototype of each class: the mean over its names in the bundle's template."""
    template = words.TEMPLATES.index(words.BUNDLE_TEMPLATE)
    rows = [of[template::len(words.TEMPLATES)] for of in prompts.of_class]
    found = sentences(tower, tokens, numpy.concatenate(rows)).split([len(of) for of in rows])
    return F.normalize(torch.stack([one.mean(0) for one in found]), dim=-1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    training.add_arguments(parser)
    parser.add_argument("--data", required=True)
    parser.add_argument("--preset", choices=image.PRESETS, default="gpu" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=350)
    parser.add_argument("--rate", type=float, default=2e-4)
    arguments = parser.parse_args()
    work, preset = pathlib.Path(arguments.work), image.PRESETS[arguments.preset]
    device = training.begin(arguments)
    tokens, prompts = Tokens(work, device), image.Prompts(work, arguments.data, device)
    pictures = image.Photos(arguments, work, preset, prompts.classes, device)
    pictures.of_class = [numpy.flatnonzero(pictures.truths == k) for k in range(len(prompts.of_class))]
    pictures.of_shape = [numpy.flatnonzero(pictures.shapes["full"][1] == k) for k in range(len(prompts.of_shape))]
    # Rows are counted from the first caption, which is the first of all sentences.
    assert tokens.places["captions"][0] == 0

    image_run = torch.nn.ModuleDict({"tower": towers.ImageTower(preset["tower"]), "scale": image.Scale()})
    load(image_run, work / f"image-{arguments.preset}.pt")
    module = torch.nn.ModuleDict({
        "image": image_run["tower"], "text": load(towers.TextTower(), work / "text.pt"), "scale": image_run["scale"],
    }).to(device)
    module["text"].eval()
    run = training.Run(module, arguments.steps, work / f"tuned-{arguments.preset}.pt", arguments.rate, arguments,
                       average=0.995, cooling=0.8)
    side = towers.IMAGE[preset["tower"]]["image_size"]
    for step in run:
        random = numpy.random.default_rng((arguments.seed, 4, step))
        pixels, rows, few = batch_of(pictures, tokens, prompts, random, side)
        taught = numpy.concatenate([random.choice(tokens.kind(kind), n) for kind, n in HELD_TO_TEACHER.items()])
        taught = numpy.concatenate([taught, rows])
        said = sentences(module["text"], tokens, taught)
        teacher = 1 - (said * prompts.targets[torch.from_numpy(taught).to(device)]).sum(1).mean()
        scale = module["scale"].log_scale.exp().clamp(max=100)
        seen = module["image"](pixels)
        logits = said[-len(rows):] @ seen.T * scale
        own = torch.arange(len(rows), device=device)
        loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        logits = seen[:len(few)] @ prompts.prototypes(prompts.of_class, random).T * scale
        classes = F.cross_entropy(logits, torch.from_numpy(few).to(device))
        run.step(loss + classes / 2 + 5 * teacher, contrast=loss, classes=classes, teacher=teacher, scale=scale)
        if run.at % 250 == 0 or run.done:
            averaged = run.averaged
            of_class = prototypes(averaged["text"], tokens, prompts)
            top1 = image.measure(averaged["image"], pictures.held[::2], pictures.held_truths[::2], of_class, side, device)
            run.note(**{"held top-1": top1})


if __name__ == "__main__":
    main()
