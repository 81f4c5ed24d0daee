#!/usr/bin/env python3
"""Records what a program shows on a terminal, as an animated SVG.

    tests/record_terminal.py OUT.svg PROGRAM ARGUMENT...

The picture of README.md, after `make run` has built the program:

    tests/record_terminal.py app/recording.svg target/debug/spotter run --source 'test://shapes?frames=240'

The program runs on a pseudoterminal of 80 columns and 10 rows, without a configuration, with state in a temporary folder; its
standard error, the log, is passed on. The recording understands the control sequences that Spotter uses and fails on any other.
It keeps a screen for every fifth of a second in which something changed, and repeats for ever.
"""

import argparse
import codecs
import fcntl
import html
import os
import pathlib
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
import time

COLUMNS, ROWS = 80, 10
# Pixels of a character cell, and around the screen.
CELL, LINE, MARGIN = 8.4, 19, 14
# Fewer screens keep the file small; more cannot be read.
SECONDS_PER_SCREEN = 0.2
# The last screen stays until the recording starts over.
LAST_SCREEN_SECONDS = 1.5
FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
SEQUENCE = re.compile(r"\x1b\[(\??)(\d*)([A-Za-z])")


class Screen:
    """The characters on a terminal, and where its cursor is."""

    def __init__(self, columns=COLUMNS, rows=ROWS):
        self.columns, self.rows = columns, rows
        self.cells = [[" "] * columns for _ in range(rows)]
        self.row = self.column = 0
        self.wraps = True
        self.rest = ""

    def feed(self, text):
        """Takes what the program wrote; a control sequence that is cut off waits for its end."""
        text, at = self.rest + text, 0
        self.rest = ""
        while at < len(text):
            if text[at] == "\x1b":
                found = SEQUENCE.match(text, at)
                if not found and len(text) - at < 16:
                    self.rest = text[at:]
                    return
                if not found:
                    raise SystemExit(f"unknown control sequence {text[at : at + 16]!r}")
                self.control(*found.groups())
                at = found.end()
                continue
            self.put(text[at])
            at += 1

    def put(self, letter):
        if letter == "\r":
            self.column = 0
        elif letter == "\n":
            self.line_feed()
        elif letter < " ":
            raise SystemExit(f"unknown control character {letter!r}")
        else:
            if self.column == self.columns:
                if not self.wraps:
                    return
                self.column = 0
                self.line_feed()
            self.cells[self.row][self.column] = letter
            self.column += 1

    def line_feed(self):
        if self.row + 1 < self.rows:
            self.row += 1
        else:
            self.cells = self.cells[1:] + [[" "] * self.columns]

    def control(self, private, number, letter):
        count = int(number or 1)
        if private and letter in "hl" and number == "7":
            self.wraps = letter == "h"
        elif not private and letter == "A":
            self.row = max(self.row - count, 0)
        elif not private and letter == "G":
            self.column = min(count, self.columns) - 1
        elif not private and letter == "J" and number in ("", "0"):
            self.cells[self.row][self.column :] = [" "] * (self.columns - self.column)
            self.cells[self.row + 1 :] = [[" "] * self.columns for _ in range(self.row + 1, self.rows)]
        else:
            raise SystemExit(f"unknown control sequence ESC [ {private}{number}{letter}")

    def lines(self):
        return tuple("".join(row).rstrip() for row in self.cells)


def record(command):
    """The screens of a program and the seconds after the first of them at which they appear; and its exit code."""
    screen, screens, decoder = Screen(), [], codecs.getincrementaldecoder("utf-8")(errors="strict")
    with tempfile.TemporaryDirectory() as state:
        environment = {**os.environ, "TERM": "xterm-256color", "XDG_STATE_HOME": state}
        environment.pop("STATE_DIRECTORY", None)
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, env=environment) as child:
            os.close(theirs)
            begun = None
            while True:
                try:
                    data = os.read(ours, 65536)
                except OSError:
                    # Linux reports the end of a pseudoterminal as an error.
                    break
                if not data:
                    break
                screen.feed(decoder.decode(data))
                # Between two redraws lines wrap; within one they do not.
                if screen.wraps and not screen.rest:
                    begun = begun or time.monotonic()
                    screens.append((time.monotonic() - begun, screen.lines()))
        os.close(ours)
    return screens, child.returncode


def thinned(screens):
    """The first screen, the last of every interval after it, and the very last, without repetitions."""
    kept = []
    for at, lines in screens:
        if kept and int(kept[-1][0] / SECONDS_PER_SCREEN) == int(at / SECONDS_PER_SCREEN) and len(kept) > 1:
            kept[-1] = (kept[-1][0], lines)
        elif not kept or kept[-1][1] != lines:
            kept.append((at, lines))
    return kept


def drawn(title, screens):
    """The SVG: all screens below each other, moved past a window that shows one."""
    rows = 1 + max((index + 1 for _, lines in screens for index, line in enumerate(lines) if line), default=0)
    width, height = round(COLUMNS * CELL + 2 * MARGIN), round(rows * LINE + 2 * MARGIN)
    first = screens[0][0]
    total = screens[-1][0] - first + LAST_SCREEN_SECONDS
    steps = "".join(
        f"{100 * (at - first) / total:.2f}%{{transform:translateY(-{index * height}px)}}"
        for index, (at, _) in enumerate(screens)
    )

    def text(line, row):
        across = f'textLength="{len(line) * CELL:.1f}"'
        return f'<text x="{MARGIN}" y="{MARGIN + row * LINE + 14}" {across}>{html.escape(line)}</text>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        f"<title>{html.escape(title)}</title>",
        f"<style>text{{font:14px {FONT};fill:#d8dee9;white-space:pre}}",
        f"#screens{{animation:play {total:.2f}s step-end infinite}}@keyframes play{{{steps}}}</style>",
        f'<rect width="{width}" height="{height}" rx="6" fill="#22272e"/>',
        '<g id="screens">',
    ]
    for index, (_, lines) in enumerate(screens):
        shown = [text(f"$ {title}", 0)] + [text(line, row + 1) for row, line in enumerate(lines) if line]
        parts.append(f'<g transform="translate(0 {index * height})">{"".join(shown)}</g>')
    return "\n".join([*parts, "</g>", "</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path, metavar="OUT.svg")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="PROGRAM ARGUMENT...")
    arguments = parser.parse_args()
    if not arguments.command:
        parser.error("no program to record")
    screens, code = record(arguments.command)
    if code != 0:
        raise SystemExit(f"{arguments.command[0]} ended with exit code {code}")
    if not any(any(lines) for _, lines in screens):
        raise SystemExit(f"{arguments.command[0]} showed nothing")
    # As a person would type it: the program's name, and the source without what ends the recording.
    words = [pathlib.Path(arguments.command[0]).name, *arguments.command[1:]]
    title = re.sub(r"\?$", "", re.sub(r"frames=\d+&?", "", " ".join(words)))
    arguments.out.write_text(drawn(title, thinned(screens)), encoding="utf-8")
    print(f"{arguments.out}: {len(thinned(screens))} screens, {arguments.out.stat().st_size / 1000:.0f} kB", file=sys.stderr)


if __name__ == "__main__":
    main()
