"""Draws coloured shapes in the style of the program's `test://shapes`: one object on a plain, a noisy or a photographic
background. The random numbers differ from the program's, so its frames are not among them."""

import numpy
from PIL import Image, ImageDraw

from words import COLOURS, SHAPES

VALUES = dict(zip(COLOURS, [
    (215, 35, 35), (35, 160, 60), (40, 70, 215), (240, 220, 40), (245, 140, 25), (130, 45, 165), (245, 245, 245),
    (15, 15, 15),
]))
SIDE = 96
# Smallest sum of channel differences between background and object, so that the object is visible.
CONTRAST = 160


def _around(corners, radii, angle):
    angles = angle + 2 * numpy.pi * numpy.arange(corners) / corners
    return numpy.stack([numpy.cos(angles), numpy.sin(angles)], 1) * numpy.resize(radii, corners)[:, None]


def _heart():
    t = numpy.linspace(0, 2 * numpy.pi, 64, endpoint=False)
    y = 13 * numpy.cos(t) - 5 * numpy.cos(2 * t) - 2 * numpy.cos(3 * t) - numpy.cos(4 * t)
    return numpy.stack([16 * numpy.sin(t) ** 3, -y], 1) / 17


def _cross(arm=0.33):
    corner = [(-arm, -1), (arm, -1), (arm, -arm)]
    turned = [[(x, y), (-y, x), (-x, -y), (y, -x)] for x, y in corner]
    return numpy.array([turned[i][quarter] for quarter in range(4) for i in range(3)])


CORNERS = {
    "circle": _around(64, [1], 0), "square": _around(4, [1], numpy.pi / 4), "triangle": _around(3, [1], -numpy.pi / 2),
    "star": _around(10, [1, 0.42], -numpy.pi / 2), "cross": _cross(), "heart": _heart(),
}


def _ground(random, colour, photo, plain):
    kind = random.random()
    if kind > 0.6 + 0.4 * plain:
        return numpy.asarray(Image.fromarray(photo).resize((SIDE, SIDE), Image.BILINEAR), numpy.float32)
    while True:
        ground = random.integers(0, 256, 3)
        if numpy.abs(ground - numpy.array(VALUES[colour])).sum() > CONTRAST:
            break
    ground = numpy.broadcast_to(ground.astype(numpy.float32), (SIDE, SIDE, 3))
    if kind < 0.3 + 0.4 * plain:
        return ground
    noise = random.normal(0, random.uniform(3, 25), (SIDE, SIDE, 1))
    return ground + noise + numpy.linspace(-1, 1, SIDE)[:, None, None] * random.uniform(-60, 60)


def draw(random, colour, shape, photo, easy=0.0):
    """An image [SIDE, SIDE, 3] of uint8. `easy`, 0 to 1, makes shapes larger and backgrounds plainer than the program's."""
    ground = numpy.clip(_ground(random, colour, photo, easy), 0, 255).astype(numpy.uint8)
    # Drawn at twice the size and downsampled, for smooth edges.
    picture = Image.fromarray(ground).resize((2 * SIDE, 2 * SIDE), Image.NEAREST)
    radius = 2 * SIDE * random.uniform(0.14 + 0.14 * easy, 0.45)
    # Camera frames are wider than high, and preprocessing squashes them.
    aspect = random.choice([1.0, 0.75, 9 / 16, 1.33], p=[0.3, 0.5, 0.1, 0.1])
    half = numpy.array([radius * min(1, aspect), radius * min(1, 1 / aspect)])
    reach = 1.06 * half
    middle = reach + random.random(2) * numpy.maximum(2 * SIDE - 2 * reach, 0)
    tilt = random.normal(0, 0.2)
    turn = numpy.array([[numpy.cos(tilt), numpy.sin(tilt)], [-numpy.sin(tilt), numpy.cos(tilt)]])
    corners = CORNERS[shape] @ turn * half + middle
    value = tuple(int(v) for v in numpy.clip(numpy.array(VALUES[colour]) + random.normal(0, 12, 3), 0, 255))
    ImageDraw.Draw(picture).polygon([tuple(corner) for corner in corners], fill=value)
    return numpy.asarray(picture.resize((SIDE, SIDE), Image.BOX))


def many(number, seed, photos, easy=0.0):
    """`number` images and what each shows, as an index into all pairs of a colour and a shape, colours first."""
    random = numpy.random.default_rng(seed)
    shown = random.integers(len(COLOURS) * len(SHAPES), size=number)
    pictures = [
        draw(random, COLOURS[k // len(SHAPES)], SHAPES[k % len(SHAPES)], photos[random.integers(len(photos))], easy)
        for k in shown
    ]
    return numpy.stack(pictures), shown
