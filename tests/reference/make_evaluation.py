"""Makes the golden file of the evaluation's measures, with numpy alone.

    python make_evaluation.py --out tests/golden/evaluation.json

Versions: requirements.txt beside this file.

OUT holds `classification` and `retrieval`, each with random embeddings of two models and their expected measures,
by the definitions written out: argsort for ranks, the loop over bins of Guo et al. (2017) for calibration, sums of
binomial coefficients for McNemar's test.
"""

import argparse
import json
import math
import pathlib

import numpy as np

BINS = 15


def rows(random, count, width):
    # Few digits, so that the file is small and both programs read the same numbers.
    return random.normal(size=(count, width)).round(3)


def unit(matrix):
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def places(scores, right):
    """From 1: the place of the first right candidate of each row; `right` is a matrix of booleans."""
    order = np.argsort(-scores, axis=1, kind="stable")
    return 1 + np.take_along_axis(right, order, axis=1).argmax(axis=1)


def calibration(probabilities, correct):
    confidences = probabilities.max(axis=1)
    bounds = np.linspace(0, 1, BINS + 1)
    ece = 0.0
    for low, high in zip(bounds[:-1], bounds[1:]):
        inside = (confidences > low) & (confidences <= high)
        if inside.any():
            ece += abs(confidences[inside].mean() - correct[inside].mean()) * inside.mean()
    return ece


def paired(first_best, second_best, first_right, second_right):
    won, lost = int((first_right & ~second_right).sum()), int((~first_right & second_right).sum())
    total = won + lost
    tail = sum(math.comb(total, heads) for heads in range(min(won, lost) + 1)) / 2**total
    return {
        "agreement": float((first_best == second_best).mean()),
        "both_right": int((first_right & second_right).sum()),
        "only_first_right": won,
        "only_second_right": lost,
        "both_wrong": int((~first_right & ~second_right).sum()),
        "p_value": min(1.0, 2 * tail),
    }


def classify(images, labels, truths, scale, bias):
    logits = unit(images) @ unit(labels).T * math.exp(scale)
    if bias is None:
        exps = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = exps / exps.sum(axis=1, keepdims=True)
    else:
        probabilities = 1 / (1 + np.exp(-(logits + bias)))
    best = logits.argmax(axis=1)
    rank = places(logits, np.arange(len(labels)) == truths[:, None])
    confusion = np.zeros((len(labels), len(labels)), int)
    np.add.at(confusion, (truths, best), 1)
    totals = confusion.sum(axis=1)
    seen = totals > 0
    expected = {
        "top_1": float((rank <= 1).mean()),
        "top_5": float((rank <= 5).mean()),
        "mean_per_class": float((confusion.diagonal()[seen] / totals[seen]).mean()),
        "ece": calibration(probabilities, best == truths),
        "confusion": confusion.tolist(),
    }
    return expected, best, best == truths


def classification(random):
    classes, pictures, width = 9, 150, 6
    # The last class has no pictures.
    truths = random.integers(0, classes - 1, pictures)
    models = []
    for scale, bias, likeness in [(2.0, None, 0.6), (1.2, -1.5, 0.4)]:
        labels = rows(random, classes, width)
        images = (likeness * labels[truths] + rows(random, pictures, width)).round(3)
        models.append((images, labels, scale, bias))
    found = [classify(images, labels, truths, scale, bias) for images, labels, scale, bias in models]
    (_, first_best, first_right), (_, second_best, second_right) = found
    return {
        "truths": truths.tolist(),
        "models": [
            {"images": i.tolist(), "labels": l.tolist(), "logit_scale": s, "logit_bias": b, "expected": expected}
            for (i, l, s, b), (expected, _, _) in zip(models, found)
        ],
        "paired": paired(first_best, second_best, first_right, second_right),
    }


def recall(scores, right):
    # An image without captions is no query.
    asks = right.any(axis=1)
    rank = places(scores[asks], right[asks])
    return {
        "queries": len(rank),
        "candidates": scores.shape[1],
        **{f"at_{k}": float((rank <= k).mean()) for k in (1, 5, 10)},
        "median_rank": float(np.median(rank)),
    }


def retrieval(random):
    pictures, captions, width = 30, 80, 8
    # The last picture has no caption.
    owners = random.integers(0, pictures - 1, captions)
    images = rows(random, pictures, width)
    texts = (0.8 * images[owners] + rows(random, captions, width)).round(3)
    scores = unit(texts) @ unit(images).T
    right = np.arange(pictures) == owners[:, None]
    return {
        "owners": owners.tolist(),
        "images": images.tolist(),
        "texts": texts.tolist(),
        "text_to_image": recall(scores, right),
        "image_to_text": recall(scores.T, right.T),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    random = np.random.default_rng(11)
    golden = {"classification": classification(random), "retrieval": retrieval(random)}
    args.out.write_text(json.dumps(golden) + "\n")
    for model in golden["classification"]["models"]:
        print({key: value for key, value in model["expected"].items() if key != "confusion"})
    print(golden["classification"]["paired"])
    print(golden["retrieval"]["text_to_image"], golden["retrieval"]["image_to_text"])


if __name__ == "__main__":
    main()
