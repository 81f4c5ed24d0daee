"""Loads the photographs from their archives; the decoded bytes are cached in the work folder."""

import io
import pathlib
import zipfile

import numpy
from PIL import Image

CAPTIONS = "captions.tsv"


def _arrays(archive, cache):
    """The images of a zip archive, [n, height, width, 3] of uint8, and their names."""
    if not cache.with_suffix(".npy").exists():
        with zipfile.ZipFile(archive) as opened:
            names = sorted(name for name in opened.namelist() if not name.endswith((".tsv", "/")))
            pictures = [numpy.asarray(Image.open(io.BytesIO(opened.read(name))).convert("RGB")) for name in names]
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.with_suffix(".txt").write_text("\n".join(names))
        # Renamed when complete, so that an interrupted run does not leave a partial cache.
        partial = cache.with_suffix(".partial.npy")
        numpy.save(partial, numpy.stack(pictures))
        partial.rename(cache.with_suffix(".npy"))
    return numpy.load(cache.with_suffix(".npy")), cache.with_suffix(".txt").read_text().split("\n")


def labelled(data, work, part):
    """Photographs of classes: images, and the folder of each. `part` is `train` or `val`."""
    found = [
        _arrays(archive, pathlib.Path(work) / "photos" / archive.stem)
        for archive in sorted(pathlib.Path(data).glob(f"tiny-imagenet-{part}*.zip"))
    ]
    if not found:
        raise SystemExit(f"{data}: expected tiny-imagenet-{part}*.zip, found none")
    pictures, names = zip(*found)
    return numpy.concatenate(pictures), [name.split("/")[0] for part in names for name in part]


def captioned(data, work, part):
    """Photographs with captions: images, and the captions of each."""
    archive = pathlib.Path(data) / f"flickr8k-96-{part}.zip"
    pictures, names = _arrays(archive, pathlib.Path(work) / "photos" / archive.stem)
    captions = {name: [] for name in names}
    with zipfile.ZipFile(archive) as opened:
        for line in opened.read(CAPTIONS).decode().splitlines():
            name, caption = line.split("\t", 1)
            captions[name].append(caption.strip())
    return pictures, [captions[name] for name in names]
