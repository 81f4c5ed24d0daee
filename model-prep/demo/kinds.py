"""The classes of ImageNet and their WordNet hypernyms: a sorrel is a horse, an ungulate, a mammal.

A network trained on ImageNet says "sorrel" where people say "horse". Its answers are distilled at all levels."""

import importlib.util
import pathlib

import words

# Hypernyms of more classes than this are too general to be visible: "organism", "artifact".
CLASSES_MAX = 130


def classes():
    """WordNet offsets of ImageNet's classes, in the order of the classifier of `seen.py`."""
    package = pathlib.Path(importlib.util.find_spec("timm").origin).parent
    return [synset.removeprefix("n") for synset in (package / "data/_info/imagenet_synsets.txt").read_text().split()]


def tree(wordnet):
    """The tree of the classes and their hypernyms, each under its first hypernym, with the root first: [{names, below:
    [index in this list], classes: [class number]}]. WORDNET has `data.noun` of WordNet 3.0.

    Names are WordNet's first two, without Latin ones; names with words of unseen.tsv are left out.
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
    """A random cut through the tree: from the root down, a node is taken with the probability `stop`, else its children are
    visited. The cut covers all classes except those without a name, each once."""
    taken, left = [], [0]
    while left:
        kind = tree[left.pop()]
        if kind["names"] and (not kind["below"] or len(kind["classes"]) <= CLASSES_MAX and random.random() < stop):
            taken.append(kind)
        else:
            left += kind["below"]
    return taken
