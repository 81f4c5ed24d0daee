"""The classes of ImageNet and the kinds of things above them, as WordNet has them: a sorrel is a horse, an ungulate, a mammal.

A network trained on ImageNet says "sorrel" where everybody says "horse". What it answers is asked for at any height."""

import importlib.util
import pathlib

import words

# What has more classes below it than this is too far from all of them to be seen: "organism", "artifact".
CLASSES_MAX = 130


def classes():
    """WordNet's offsets of ImageNet's classes, in the order of the network of `seen.py`."""
    package = pathlib.Path(importlib.util.find_spec("timm").origin).parent
    return [synset.removeprefix("n") for synset in (package / "data/_info/imagenet_synsets.txt").read_text().split()]


def tree(wordnet):
    """The classes and all above them, each below its first kind: [{names, below: [place in this list], classes: [number]}], the
    first of them above all. WORDNET has `data.noun` of WordNet 3.0.

    Names are the first two of WordNet's, without Latin ones; those that have words of unseen.tsv are left out.
    """
    synsets = {}
    for offset, _, lemmas, pointers, _ in words.synsets(wordnet):
        names = [lemma.lower() for lemma in lemmas[:1] + [lemma for lemma in lemmas[1:2] if lemma.islower()]]
        synsets[offset] = [name for name in names if not words.unseen_in(name)], pointers["@"][:1]

    found, place = [], {}
    for number, synset in enumerate(classes()):
        line = [synset]
        while synsets[line[-1]][1]:
            line += synsets[line[-1]][1]
        for above, synset in zip([None, *line[:0:-1]], line[::-1]):
            if synset not in place:
                place[synset] = len(found)
                found.append({"names": synsets[synset][0], "below": [], "classes": []})
                if above:
                    found[place[above]]["below"].append(place[synset])
            found[place[synset]]["classes"].append(number)
    return found


def cut(tree, random, stop):
    """Kinds of which none is above another, and that have every class below them but those without a name: from the top down,
    each is taken with the probability `stop`, or what is below it is."""
    taken, left = [], [0]
    while left:
        kind = tree[left.pop()]
        if kind["names"] and (not kind["below"] or len(kind["classes"]) <= CLASSES_MAX and random.random() < stop):
            taken.append(kind)
        else:
            left += kind["below"]
    return taken
