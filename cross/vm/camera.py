"""vivid, the kernel's virtual camera: its controls, and the images it draws."""

import re

DEVICE = "/dev/video0"
WIDTH, HEIGHT = 640, 480

# Bars of the kernel's test pattern generator, left to right, as (red, green, blue) on or off (v4l2-tpg-core.c).
BARS = [(1, 1, 1), (1, 1, 0), (0, 1, 1), (0, 1, 0), (1, 0, 1), (1, 0, 0), (0, 0, 1), (0, 0, 0)]


def bars(level):
    row = b"".join(bytes(on * level for on in bar) * (WIDTH // len(BARS)) for bar in BARS)
    return row * HEIGHT


def lying_bars():
    return b"".join(bytes(on * 255 for on in bar) * WIDTH * (HEIGHT // len(BARS)) for bar in BARS)


def ramp():
    return b"".join(bytes([x * 256 // WIDTH]) * 3 for x in range(WIDTH)) * HEIGHT


# Names of patterns, as the driver calls them, and their pixels in RGB.
PATTERNS = {
    "75% Colorbar": bars(191),
    "100% Colorbar": bars(255),
    "Horizontal 100% Colorbar": lying_bars(),
    "Gray Ramp": ramp(),
}


def grey(rgb):
    """The pattern as the driver's grey formats show it: luma by BT.709, whatever the colour space."""
    shades = {}
    pixels = bytearray()
    for i in range(0, len(rgb), 3):
        color = rgb[i : i + 3]
        if color not in shades:
            shades[color] = bytes([round(0.2126 * color[0] + 0.7152 * color[1] + 0.0722 * color[2])]) * 3
        pixels += shades[color]
    return bytes(pixels)


def worst(found, expected):
    """The largest difference of two equally long runs of samples, and where it is."""
    pairs = {}
    for i, pair in enumerate(zip(found, expected, strict=True)):
        pairs.setdefault(pair, i)
    (a, b), i = max(pairs.items(), key=lambda item: abs(item[0][0] - item[0][1]))
    return abs(a - b), f"{a} instead of {b} in column {i // 3 % WIDTH}, row {i // 3 // WIDTH}, channel {i % 3}"


def read_ppm(path):
    head = re.match(rb"P6\s+(\d+)\s+(\d+)\s+255\s", content := path.read_bytes())
    assert head and (int(head[1]), int(head[2])) == (WIDTH, HEIGHT), content[:20]
    return content[head.end() :]


class Camera:
    """vivid on a board."""

    def __init__(self, machine):
        self.machine = machine
        machine.run("modprobe vivid n_devs=1 node_types=0x1")
        self.wait()
        self.choices = {}
        control = ""
        for line in machine.run(f"v4l2-ctl -d {DEVICE} --list-ctrls-menus").splitlines():
            if found := re.match(r"\s+(\w+) 0x\w+ \(", line):
                control = found[1]
            elif found := re.match(r"\s+(\d+): (.+)", line):
                self.choices[control, found[2].strip()] = int(found[1])
        self.set(osd_text_mode="None")

    def wait(self):
        self.machine.run(f"i=0; until [ -c {DEVICE} ] || [ $i -gt 6000 ]; do usleep 20000; i=$((i+1)); done; ls {DEVICE}")

    def set(self, **controls):
        """Sets controls by number, or by the name of a choice."""
        pairs = [f"{name}={self.choices.get((name, value), value)}" for name, value in controls.items()]
        self.machine.run(f"v4l2-ctl -d {DEVICE} -c {','.join(pairs)}")
