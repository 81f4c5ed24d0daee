"""Step 4: trains the image tower. A ViT learns to match images with the teacher's embeddings of their sentences.

    python image.py --data PHOTOS --work WORK [--preset cpu|gpu] [--minutes M] [--begin CHECKPOINT]

Reads the output of targets.py and seen.py. With --begin, also reads the output of text.py and starts from the image tower of
an earlier checkpoint. There are five losses: a softmax over the prompts of all classes, sampled for each batch; a
contrastive loss between captions and images; a softmax over the phrases of drawn shapes, large and plain ones first;
distillation of the similarities to nouns, which should be those of the image's class or caption, so that nouns without
photographs are learned too; and distillation of a classifier trained on ImageNet, over its classes or their WordNet
hypernyms. The words of unseen.tsv are not among nouns, classes and hypernyms.
Writes WORK/image-PRESET.pt and resumes from it."""

import argparse
import itertools
import json
import pathlib

import numpy
import torch
import torch.nn.functional as F

import augment
import kinds
import photos
import shapes
import text
import towers
import training
import words

PRESETS = {
    # `sizes`: (end as a share of the run, side of the images). Small images are cheap and teach most of it.
    "cpu": dict(tower="small", passes=13, batch=96, rate=1.5e-3, sizes=[(0.45, 40), (0.8, 48), (1.0, 64)],
                scale=(0.4, 1.0), colour=0.25, mix=0.0, erase=0.0, coarse=0.25, decay=0.05),
    "gpu": dict(tower="large", passes=300, batch=512, rate=1.5e-3, sizes=[(0.5, 64), (1.0, 96)],
                scale=(0.2, 1.0), colour=0.4, mix=0.5, erase=0.25, coarse=0.25, decay=0.1),
}
SHAPES_DRAWN = 20000
# Number of nouns in a batch, and the weight of their loss.
NOUNS, NOUNS_WEIGHT = 2048, 1.0
# Distillation of the classifier: weight of the loss, temperature of the classifier, logit scale of the tower.
SEEN_WEIGHT, SEEN_TEMPERATURE, SEEN_SCALE = 5.0, 2.0, 20.0
# Largest probability that a hypernym is used instead of its hyponyms.
STOP_MAX = 0.6


class Prompts:
    """The teacher's embeddings of all sentences, and class prototypes computed from them."""

    def __init__(self, work, data, device):
        read = json.loads((work / "texts.json").read_text())
        self.targets = torch.from_numpy(numpy.load(work / "targets.npy").astype(numpy.float32)).to(device)
        self.caption = {text: row for row, text in enumerate(read["texts"][slice(*read["places"]["captions"])])}
        at = read["places"]["labels"][0]
        rows = {label: at + i * len(words.TEMPLATES) for i, label in enumerate(read["labels"])}
        self.classes = words.classes(pathlib.Path(data) / "tiny-imagenet-classes.tsv")
        self.of_class = [
            [rows[name] + i for name in names for i in range(len(words.TEMPLATES))] for names in self.classes.values()
        ]
        at, phrases = read["places"]["shapes"][0], words.shape_phrases()
        self.of_shape = [
            [at + i for i, phrase in enumerate(phrases) if phrase[1:] == pair]
            for pair in itertools.product(words.COLOURS, words.SHAPES)
        ]
        self.nouns = numpy.array([row for row in range(*read["places"]["nouns"]) if not words.unseen_in(read["texts"][row])])
        self.kinds, at = read["kinds"], read["places"]["kinds"][0]
        for kind in self.kinds:
            kind["rows"] = range(at, at + len(kind["names"]) * len(words.TEMPLATES))
            at = kind["rows"].stop

    def prototypes(self, of, random=None, number=3):
        """One prototype per list of rows in `of`: the mean of `number` sampled rows, or of all without `random`."""
        if random is None:
            return F.normalize(torch.stack([self.targets[rows].mean(0) for rows in of]), dim=-1)
        rows = numpy.stack([random.choice(rows, number) for rows in of])
        return F.normalize(self.targets[torch.from_numpy(rows).to(self.targets.device)].mean(1), dim=-1)


class Photos:
    """All images, in memory, and their augmentation."""

    def __init__(self, arguments, work, preset, classes, device):
        self.device, self.preset = device, preset
        pictures, names = photos.labelled(arguments.data, work, "train")
        number = {name: i for i, name in enumerate(classes)}
        self.pictures, self.truths = pictures, numpy.array([number[name] for name in names])
        self.captioned, self.captions = photos.captioned(arguments.data, work, "train")
        # Photographs of classes, then photographs with captions.
        self.seen = numpy.load(work / "seen.npy", mmap_mode="r")
        held, names = photos.labelled(arguments.data, work, "val")
        self.held, self.held_truths = held, numpy.array([number[name] for name in names])
        cache = work / "photos" / "shapes.npz"
        if not cache.exists():
            easy, full = (shapes.many(SHAPES_DRAWN, seed, pictures, easy) for seed, easy in ((1, 1.0), (2, 0.0)))
            numpy.savez(cache, easy=easy[0], easy_shown=easy[1], full=full[0], full_shown=full[1])
        with numpy.load(cache) as read:
            self.shapes = {kind: (read[kind], read[f"{kind}_shown"]) for kind in ("easy", "full")}
        self.held_shapes = shapes.many(960, 3, held)

    def changed(self, pictures, side, random, crop=True):
        preset = self.preset
        pixels = augment.plain(augment.jpeg(pictures, random, 0.1), pictures.shape[1], self.device)
        # A shape must not be cropped, since that changes it.
        pixels = augment.crops(pixels, side, preset["scale"] if crop else (0.85, 1.0))
        pixels = augment.faults(augment.colours(pixels, preset["colour"] if crop else 0.08), 0.15)
        return augment.erase(pixels, preset["erase"]) if crop and preset["erase"] else pixels


def side_at(preset, part):
    return next(side for until, side in preset["sizes"] if part <= until)


@torch.no_grad()
def measure(tower, pictures, truths, prototypes, side, device):
    """The share of images whose nearest prototype is the right one."""
    right = 0
    for at in range(0, len(pictures), 250):
        found = tower(augment.plain(pictures[at:at + 250], side, device)) @ prototypes.T
        right += (found.argmax(1).cpu().numpy() == truths[at:at + 250]).sum()
    return round(float(right) / len(pictures), 4)


def taken_for(found, answers, prompts, random):
    """Distillation loss of the embeddings `found` [n, EMBEDDING] from the classifier's probabilities `answers` [n, 1000]: the
    KL divergence over classes or hypernyms, at a randomly chosen level of WordNet."""
    # Half of the time, the classes themselves.
    cut = kinds.cut(prompts.kinds, random, max(0.0, random.uniform(-STOP_MAX, STOP_MAX)))
    # Classes without a hypernym go to an extra last column, which is dropped.
    of_class = torch.full((answers.shape[1],), len(cut))
    for at, kind in enumerate(cut):
        of_class[kind["classes"]] = at
    shares = answers.new_zeros(len(answers), len(cut) + 1).index_add(1, of_class.to(answers.device), answers)[:, :-1]
    # Divided by the number of classes: some of ImageNet's 118 dogs get probability in any image.
    number = torch.tensor([len(kind["classes"]) for kind in cut], device=answers.device)
    shares = shares.clamp(min=1e-12) ** (1 / SEEN_TEMPERATURE) / number
    shares = shares / shares.sum(1, keepdim=True)
    logits = found @ prompts.prototypes([kind["rows"] for kind in cut], random).T * SEEN_SCALE
    apart = F.kl_div(F.log_softmax(logits, 1), shares.nan_to_num(), reduction="none").sum(1)
    # Images without predictions are left out.
    looked = shares.isfinite().all(1)
    return (apart * looked).sum() / looked.sum().clamp(min=1)


def losses(module, batch, prompts, random):
    """The losses of one batch (photographs, captions, shapes, nouns, classifier), and the accuracy on photographs."""
    tower, scale = module["tower"], module["scale"].log_scale.exp().clamp(max=100)
    found = tower(torch.cat(batch["pixels"]), batch["corner"])
    photos_found, captions_found, shapes_found = found.split([len(part) for part in batch["pixels"]])
    device = found.device

    classes = prompts.prototypes(prompts.of_class, random)
    logits = photos_found @ classes.T * scale
    truth = torch.from_numpy(batch["truths"]).to(device)
    loss = F.cross_entropy(logits, truth, label_smoothing=0.1)
    if batch["share"] < 1:
        mixed = F.cross_entropy(logits, truth.flip(0), label_smoothing=0.1)
        loss = batch["share"] * loss + (1 - batch["share"]) * mixed
    right = (logits.argmax(1) == truth).float().mean()

    wanted = prompts.targets[torch.from_numpy(batch["captions"]).to(device)]
    logits = captions_found @ wanted.T * scale
    own = torch.arange(len(logits), device=device)
    captions = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2

    logits = shapes_found @ prompts.prototypes(prompts.of_shape, random).T * scale
    drawn = F.cross_entropy(logits, torch.from_numpy(batch["shown"]).to(device))

    shown = classes[truth] * batch["share"] + classes[truth.flip(0)] * (1 - batch["share"])
    shown = F.normalize(torch.cat([shown, wanted]), dim=-1)
    nouns = prompts.targets[torch.from_numpy(random.choice(prompts.nouns, NOUNS, replace=False)).to(device)]
    order = towers.order(torch.cat([photos_found, captions_found]), shown, nouns)

    answers = F.softmax(torch.from_numpy(batch["seen"].astype(numpy.float32)).to(device), 1)
    if batch["share"] < 1:
        own = answers[:len(truth)]
        answers = torch.cat([own * batch["share"] + own.flip(0) * (1 - batch["share"]), answers[len(truth):]])
    seen = taken_for(torch.cat([photos_found, captions_found]), answers, prompts, random)
    return loss, captions, drawn, order, seen, right


def batch_of(run, photos, prompts, preset, random):
    """The inputs of one step."""
    side = side_at(preset, run.at / run.steps)
    patch = towers.IMAGE[preset["tower"]]["patch_size"]
    room = (towers.IMAGE[preset["tower"]]["image_size"] - side) // patch
    number, few = preset["batch"], preset["batch"] // 8
    # Each image once per pass.
    start = run.at * number
    order = numpy.random.default_rng(start // len(photos.pictures)).permutation(len(photos.pictures))
    rows = numpy.take(order, range(start % len(order), start % len(order) + number), mode="wrap")
    pixels, share = photos.changed(photos.pictures[rows], side, random), 1.0
    if random.random() < preset["mix"]:
        pixels, share = augment.mixed(pixels, random)

    captioned = random.choice(len(photos.captioned), 2 * few, replace=False)
    captions = numpy.array([prompts.caption[random.choice(photos.captions[row])] for row in captioned])
    # Large and plain shapes at first, later like those of `test://shapes`.
    easy = random.random() > 3 * run.at / run.steps
    drawn, shown = photos.shapes["easy" if easy else "full"]
    chosen = random.integers(len(drawn), size=2 * few)
    pixels = [pixels, photos.changed(photos.captioned[captioned], side, random),
              photos.changed(drawn[chosen], side, random, crop=False)]
    # The small images at the start are coarse anyway.
    if side > preset["sizes"][0][1]:
        pixels = [augment.coarse(part, preset["coarse"]) for part in pixels]
    return {
        "pixels": pixels,
        "seen": photos.seen[numpy.concatenate([rows, len(photos.pictures) + captioned])],
        "truths": photos.truths[rows], "share": share, "captions": captions, "shown": shown[chosen],
        "corner": tuple(int(c) for c in random.integers(0, room + 1, 2)),
    }


class Scale(torch.nn.Module):
    """The logit scale, as a natural logarithm."""

    def __init__(self, value=20.0):
        super().__init__()
        self.log_scale = torch.nn.Parameter(torch.tensor(value).log())


@torch.no_grad()
def begin_with(module, checkpoint, work, targets):
    """Loads image tower and logit scale of an earlier checkpoint, rotated so that its text tower matches the targets."""
    tower = towers.TextTower().eval().to(targets.device)
    earlier, turn = text.begin_with(tower, checkpoint, text.Tokens(work, targets.device), targets)
    module["tower"].model.load_state_dict(earlier.vision_model.state_dict())
    module["tower"].projection.weight.copy_(turn @ earlier.visual_projection.weight.to(turn.device))
    module["scale"].log_scale.copy_(earlier.logit_scale)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    training.add_arguments(parser)
    parser.add_argument("--data", required=True)
    parser.add_argument("--preset", choices=PRESETS, default="gpu" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--passes", type=float, help="passes over the photographs of classes, instead of the preset's")
    parser.add_argument("--rate", type=float, help="learning rate, instead of the preset's")
    parser.add_argument("--begin", type=pathlib.Path)
    arguments = parser.parse_args()
    work, preset = pathlib.Path(arguments.work), PRESETS[arguments.preset]
    device = training.begin(arguments)
    prompts = Prompts(work, arguments.data, device)
    pictures = Photos(arguments, work, preset, prompts.classes, device)
    module = torch.nn.ModuleDict({"tower": towers.ImageTower(preset["tower"]), "scale": Scale()}).to(device)
    passes = preset["passes"] if arguments.passes is None else arguments.passes
    steps = round(passes * len(pictures.pictures) / preset["batch"])
    path = work / f"image-{arguments.preset}.pt"
    # A resumed run has its start in its state.
    if arguments.begin and not path.exists():
        begin_with(module, arguments.begin, work, prompts.targets)
    # In a short run, weights are averaged over its last quarter.
    run = training.Run(module, steps, path, arguments.rate or preset["rate"], arguments,
                       average=min(0.999, 1 - 4 / max(steps, 4)), weight_decay=preset["decay"])
    classes, drawn = prompts.prototypes(prompts.of_class), prompts.prototypes(prompts.of_shape)
    for step in run:
        random = numpy.random.default_rng((arguments.seed, step))
        batch = batch_of(run, pictures, prompts, preset, random)
        photo_loss, caption_loss, shape_loss, noun_loss, seen_loss, right = losses(module, batch, prompts, random)
        loss = photo_loss + 0.6 * caption_loss + 0.3 * shape_loss + NOUNS_WEIGHT * noun_loss + SEEN_WEIGHT * seen_loss
        run.step(loss, right=right, captions=caption_loss, shapes=shape_loss, nouns=noun_loss, seen=seen_loss)
        if run.at % 500 == 0 or run.done:
            side, tower = side_at(preset, run.at / run.steps), run.averaged["tower"]
            run.note(**{"held top-1": measure(tower, pictures.held[::4], pictures.held_truths[::4], classes, side, device),
                        "held shapes": measure(tower, *pictures.held_shapes, drawn, side, device)})


if __name__ == "__main__":
    main()
