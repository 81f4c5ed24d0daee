"""Step 2: trains the tokenizer and the text tower. A small BERT learns the teacher's embeddings of all sentences.

    python text.py --work WORK [--minutes M] [--begin CHECKPOINT]

Reads the output of targets.py. With --begin, starts from the text tower and the tokenizer of an earlier checkpoint. Writes
WORK/tokenizer.json, WORK/vocab.txt and WORK/text.pt, and resumes from them."""

import argparse
import json
import pathlib
import shutil

import numpy
import tokenizers
import torch
import transformers

import towers
import training

# Number of sentences of each kind in a batch.
MIX = {"captions": 32, "labels": 48, "nouns": 256, "definitions": 16, "shapes": 16}
TOKENS_MAX = 40
# Every HELD-th caption is held out.
HELD = 50


def tokenizer(work, texts):
    """The WordPiece tokenizer of the sentences, trained on the first call."""
    path = work / "tokenizer.json"
    if not path.exists():
        learned = tokenizers.BertWordPieceTokenizer(lowercase=True)
        learned.train_from_iterator(texts, vocab_size=towers.TEXT["vocab_size"], min_frequency=2,
                                    show_progress=False)
        learned.save_model(str(work))
        learned.save(str(path))
    return tokenizers.BertWordPieceTokenizer(str(work / "vocab.txt"), lowercase=True)


class Tokens:
    """Token ids of all sentences, and batches of them."""

    def __init__(self, work, device):
        read = json.loads((work / "texts.json").read_text())
        self.places, self.device = read["places"], device
        encoded = tokenizer(work, read["texts"]).encode_batch(read["texts"])
        self.ids = [numpy.array(e.ids if len(e.ids) <= TOKENS_MAX else e.ids[: TOKENS_MAX - 1] + e.ids[-1:]) for e in encoded]

    def batch(self, rows):
        longest = max(len(self.ids[row]) for row in rows)
        ids, mask = (torch.zeros(len(rows), longest, dtype=torch.long) for _ in range(2))
        for at, row in enumerate(rows):
            ids[at, : len(self.ids[row])] = torch.from_numpy(self.ids[row])
            mask[at, : len(self.ids[row])] = 1
        return ids.to(self.device), mask.to(self.device)

    @torch.no_grad()
    def through(self, function, rows):
        """Applies `function` to the tokens of these rows, in batches."""
        return torch.cat([function(*self.batch(some)).float() for some in numpy.array_split(rows, len(rows) // 200)])

    def kind(self, kind):
        return numpy.arange(*self.places[kind])


@torch.no_grad()
def begin_with(tower, checkpoint, tokens, targets):
    """Loads the text tower of an earlier checkpoint, rotated to the targets; returns the checkpoint and the rotation.

    The embedding space of a checkpoint may be rotated; the rotation is the one that brings its sentences closest to the
    targets.
    """
    earlier = transformers.VisionTextDualEncoderModel.from_pretrained(checkpoint)
    tower.model.load_state_dict(earlier.text_model.state_dict())
    tower.projection.load_state_dict(earlier.text_projection.state_dict())
    rows = numpy.concatenate([tokens.kind(kind)[::step] for kind, step in (("captions", 20), ("labels", 4))])
    wanted = targets[torch.from_numpy(rows).to(targets.device)]
    found = tokens.through(tower, rows)
    turn = towers.turn(found.T, wanted.T)
    cosine = (found @ turn.T * wanted).sum(1).mean()
    print(f"{checkpoint}: mean cosine {cosine:.3f} between its sentences and their targets", flush=True)
    tower.projection.weight.copy_(turn @ tower.projection.weight)
    return earlier, turn


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    training.add_arguments(parser)
    parser.add_argument("--steps", type=int, default=12000)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--begin", type=pathlib.Path)
    arguments = parser.parse_args()
    work = pathlib.Path(arguments.work)
    device = training.begin(arguments)
    path = work / "text.pt"
    # A resumed run has its start in its state.
    begin = None if path.exists() else arguments.begin
    if begin:
        for name in ("tokenizer.json", "vocab.txt"):
            shutil.copy(begin / name, work / name)
    tokens = Tokens(work, device)
    targets = torch.from_numpy(numpy.load(work / "targets.npy").astype(numpy.float32)).to(device)
    rows = {kind: tokens.kind(kind) for kind in MIX}
    held = {"captions": rows["captions"][::HELD][:400], "labels": rows["labels"][::17], "shapes": rows["shapes"][::5]}
    rows["captions"] = numpy.delete(rows["captions"], numpy.s_[::HELD])

    tower = towers.TextTower().to(device)
    if begin:
        begin_with(tower.eval(), begin, tokens, targets)
        tower.train()
    run = training.Run(tower, arguments.steps, path, arguments.rate, arguments, weight_decay=0.01)
    for step in run:
        draw = numpy.random.default_rng((arguments.seed, step))
        chosen = numpy.concatenate([draw.choice(rows[kind], number) for kind, number in MIX.items()])
        # Short and long sentences are run separately, to save padding.
        chosen = chosen[numpy.argsort([len(tokens.ids[row]) for row in chosen])]
        short, long = chosen[: len(chosen) * 2 // 3], chosen[len(chosen) * 2 // 3:]
        found = torch.cat([tower(*tokens.batch(short)), tower(*tokens.batch(long))])
        wanted = targets[torch.from_numpy(chosen).to(device)]
        cosine = (found * wanted).sum(1)
        run.step(5 * (1 - cosine).mean() + towers.order(found, wanted, wanted), cosine=cosine.mean())
        if run.at % 500 == 0 or run.done:
            figures = {}
            for kind, of_kind in held.items():
                with torch.no_grad():
                    found = run.averaged(*tokens.batch(of_kind))
                wanted = targets[torch.from_numpy(of_kind).to(device)]
                figures[f"held {kind}"] = round((found * wanted).sum(1).mean().item(), 4)
            run.note(**figures)


if __name__ == "__main__":
    main()
