#!/usr/bin/env python3
"""Fails when modules of a crate use each other in a circle.

    tests/circles.py             checks the crates of this repository
    tests/circles.py --list      also prints who uses whom
    tests/circles.py --self-test checks this script on small made-up crates

A module is a file. It uses a second one where a path in its code (`use crate::a::b::Item`, `super::c::call()`, or a path that
begins with one of its own submodules) leads there; imports and re-exports are followed to the file that defines the item. A
submodule may use the modules that contain it. Code that is compiled for tests only (`#[cfg(test)]`) is left out.

To break a circle, move what two modules share into a module below both. Exit code 1 if there is a circle.
"""

import argparse
import pathlib
import re
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Where the code of each crate lies.
SOURCES = ["app/engine/src", "app/src", "model-prep/src", "tests/tests/e2e"]

# Comments, strings and character literals, in which a path means nothing.
SILENT = re.compile(
    r"//[^\n]*"
    r"|/\*.*?\*/"
    r'|\bb?r(?P<hashes>#*)".*?"(?P=hashes)'
    r'|b?"(?:\\.|[^"\\])*"'
    r"|b?'(?:\\(?:u\{[0-9a-fA-F_]+\}|x[0-9a-fA-F]{2}|.)|[^\\'\n])'",
    re.DOTALL,
)
ITEMS = {"const", "enum", "extern", "fn", "impl", "macro_rules", "mod", "static", "struct", "trait", "type", "use"}
TOKEN = re.compile(r"#!?\[|::|\w+|[^\w\s]")


class Module:
    """One file: its place in the crate, the paths in its code, and the names it re-exports."""

    def __init__(self, name, path):
        self.name = name
        self.path = path
        self.paths = []
        self.exports = {}
        self.globs = []

    def read(self):
        text = SILENT.sub(" ", self.path.read_text(encoding="utf-8"))
        self.scan(without_tests(TOKEN.findall(text)))

    def scan(self, tokens):
        """Collects paths. Inside `mod inner { … }` the inner module's own name is added, so that `super` counts right."""
        inner, depth, at = [], 0, 0
        while at < len(tokens):
            token = tokens[at]
            if token == "{":
                depth += 1
            elif token == "}":
                depth -= 1
                if inner and inner[-1][1] == depth:
                    inner.pop()
            elif token == "mod" and tokens[at + 2 : at + 3] == ["{"]:
                inner.append((tokens[at + 1], depth))
            elif token == "use" and tokens[at + 1 : at + 2] != ["<"]:
                end = tokens.index(";", at)
                place = self.name + tuple(name for name, _ in inner)
                for path, alias in use_tree(tokens[at + 1 : end]):
                    self.paths.append((place, path))
                    # A private import is a name for this module and those inside of it.
                    if not inner and path[-1] == "*":
                        self.globs.append(path[:-1])
                    elif not inner:
                        self.exports[alias] = path
                at = end
            elif begins_path(tokens, at):
                path = [token]
                while tokens[at + 1 : at + 2] == ["::"] and re.match(r"\w", "".join(tokens[at + 2 : at + 3])):
                    path.append(tokens[at + 2])
                    at += 2
                self.paths.append((self.name + tuple(name for name, _ in inner), tuple(path)))
            at += 1


def begins_path(tokens, at):
    """Whether a path with a module in front begins here, other than that of `pub(in path)`."""
    if not re.match(r"[a-z_]\w*$", tokens[at]) or tokens[at + 1 : at + 2] != ["::"]:
        return False
    return tokens[max(at - 1, 0)] not in ("::", ".") and tokens[max(at - 3, 0) : at] != ["pub", "(", "in"]


def without_tests(tokens):
    """The tokens without the items that are compiled for tests only."""
    kept, at = [], 0
    while at < len(tokens):
        end = end_of_attribute(tokens, at)
        attribute = tokens[at:end]
        if attribute[1:2] == ["cfg"] and "test" in attribute and "not" not in attribute:
            at = end_of_item(tokens, end)
        elif attribute:
            at = end
        else:
            kept.append(tokens[at])
            at += 1
    return kept


def end_of_attribute(tokens, at):
    """The index after the attribute that begins at `at`; `at` itself if none does."""
    if tokens[at] not in ("#[", "#!["):
        return at
    depth = 0
    while True:
        depth += {"#[": 1, "#![": 1, "[": 1, "]": -1}.get(tokens[at], 0)
        at += 1
        if depth == 0:
            return at


def end_of_item(tokens, at):
    """The index after the item, field or statement that begins at `at`, with attributes of its own."""
    while tokens[at] in ("#[", "#!["):
        at = end_of_attribute(tokens, at)
    field = not ITEMS.intersection(tokens[at : at + 6])
    depth = 0
    while at < len(tokens):
        token = tokens[at]
        if depth == 0 and token == "}":
            return at
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(token, 0)
        at += 1
        if depth == 0 and (token in ("}", ";") or token == "," and field):
            return at
    return at


def use_tree(tokens):
    """The paths of a `use` item, each with the name that it is known by; `self` at an end stands for what it ends."""
    found, prefix, stack, at = [], [], [], 0

    def leaf(path, alias):
        if path and path[-1] == "self" and len(path) > 1:
            path = path[:-1]
        if path:
            found.append((tuple(path), alias or path[-1]))

    path, alias = [], None
    while at < len(tokens):
        token = tokens[at]
        if token == "{":
            stack.append(prefix)
            prefix, path = prefix + path, []
        elif token in (",", "}"):
            if path:
                leaf(prefix + path, alias)
            path, alias = [], None
            if token == "}":
                prefix = stack.pop()
        elif token == "as":
            alias = tokens[at + 1]
            at += 1
        elif token != "::":
            path.append(token)
        at += 1
    if path:
        leaf(prefix + path, alias)
    return found


def modules_of(source):
    """The modules of the crate whose code is in the folder `source`, by name: a tuple of segments, `()` for the root."""
    modules = {}
    # The `main.rs` beside a library is a crate of its own, which nothing can use.
    root = "lib" if (source / "lib.rs").exists() else "main"
    for path in sorted(source.rglob("*.rs")):
        parts = path.relative_to(source).with_suffix("").parts
        if "tests" in parts or (parts == ("main",) and root == "lib"):
            continue
        name = () if parts == (root,) else parts[:-1] if parts[-1] == "mod" else parts
        modules[name] = Module(name, path)
    if () not in modules:
        raise SystemExit(f"{source}: no lib.rs and no main.rs")
    for module in modules.values():
        module.read()
    return modules


def resolve(modules, place, path, seen=frozenset()):
    """The module that defines what `path` names in the module `place`, which may be inline; None where it is not of this crate."""
    segments, here = list(path), place
    if segments[0] in ("crate", "self", "super"):
        first = segments.pop(0)
        here = () if first == "crate" else place if first == "self" else place[:-1]
        while segments[:1] == ["super"]:
            segments.pop(0)
            here = here[:-1]
    else:
        file = enclosing(modules, place)
        if place + (segments[0],) not in modules and segments[0] not in modules[file].exports:
            return None
    while segments:
        step = here + (segments[0],)
        if step in modules:
            here = step
            segments.pop(0)
            continue
        file = enclosing(modules, here)
        key = (file, segments[0])
        if key in seen:
            return file
        exported = modules[file].exports.get(segments[0]) if file == here else None
        if exported:
            # An import from another crate is used as if it were defined here.
            found = resolve(modules, file, exported + tuple(segments[1:]), seen | {key})
            return file if found is None else found
        for glob in modules[file].globs if file == here else ():
            found = resolve(modules, file, glob, seen | {key})
            if found is not None and found != file and defines(modules[found], segments[0]):
                return found
        return file
    return enclosing(modules, here)


def defines(module, name):
    """Whether the file has an item of that name."""
    text = module.path.read_text(encoding="utf-8")
    return re.search(rf"\b(fn|struct|enum|trait|type|const|static|mod|union|macro_rules!)\s+{re.escape(name)}\b", text) is not None


def enclosing(modules, name):
    """The file that the module `name` is written in."""
    while name not in modules:
        name = name[:-1]
    return name


def uses_of(modules):
    """For each module those it uses, without those it lies in."""
    uses = {name: set() for name in modules}
    for name, module in modules.items():
        for place, path in module.paths:
            target = resolve(modules, place, path)
            if target is not None and target != name and name[: len(target)] != target:
                uses[name].add(target)
    return uses


def circles(uses):
    """Groups of modules each of which reaches all others of its group (Tarjan's strongly connected components)."""
    index, low, stack, on_stack, found = {}, {}, [], set(), []

    def visit(name):
        index[name] = low[name] = len(index)
        stack.append(name)
        on_stack.add(name)
        for other in sorted(uses[name]):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in on_stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = set()
            while name not in group:
                group.add(stack.pop())
            on_stack.difference_update(group)
            if len(group) > 1:
                found.append(group)

    for name in sorted(uses):
        if name not in index:
            visit(name)
    return found


def shortest(uses, group):
    """One shortest circle of a group, as the modules that one comes by."""
    best = None
    for start in sorted(group):
        paths, seen = [[start]], {start}
        while paths and (best is None or len(paths[0]) < len(best)):
            path = paths.pop(0)
            following = sorted(uses[path[-1]] & group)
            if start in following:
                best = path + [start]
                break
            paths += [path + [name] for name in following if name not in seen]
            seen.update(following)
    return best


def shown(name):
    return "::".join(("crate", *name))


def check(source, listed=False):
    """Prints the circles of the crate in the folder `source`; gives how many there are."""
    uses = uses_of(modules_of(ROOT / source))
    if listed:
        for name in sorted(uses):
            print(f"{shown(name)} -> {', '.join(map(shown, sorted(uses[name]))) or 'nothing'}")
    found = circles(uses)
    for group in found:
        print(f"{source}: {len(group)} modules use each other in a circle, such as")
        print("    " + " -> ".join(map(shown, shortest(uses, group))))
        print("    all of them: " + ", ".join(map(shown, sorted(group))))
    return len(found)


# Each case: the files of a crate, and the circles in it, each as its modules in order.
CASES = {
    "two files": ({"lib": "mod a; mod b;", "a": "use crate::b::B;", "b": "use crate::a::A;"}, ["a b"]),
    "one way": ({"lib": "mod a; mod b;", "a": "use crate::b::B;", "b": "pub struct B;"}, []),
    "three files": ({"lib": "", "a": "use crate::b::B;", "b": "fn f() { crate::c::g() }", "c": "use super::a::A;"}, ["a b c"]),
    "in braces": ({"lib": "", "a": "use crate::{b::{self, B}, c};", "b": "use super::{c::C, a as other};", "c": ""}, ["a b"]),
    "parent and child": ({"lib": "", "a": "mod x; use x::X; pub struct A;", "a/x": "use super::A; use crate::a::A as B;"}, []),
    "siblings": ({"lib": "", "a": "mod x; mod y;", "a/x": "use super::y::Y;", "a/y": "use crate::a::x::X;"}, ["a::x a::y"]),
    "by way of the parent": (
        {"lib": "", "a": "mod x; use x::X;", "a/x": "use crate::b::B;", "b": "use crate::a::A;"},
        ["a a::x b"],
    ),
    "by a re-export": (
        {"lib": "", "a": "mod x; mod y; pub use x::X;", "a/x": "use super::y::Y; pub struct X;", "a/y": "use super::X;"},
        ["a::x a::y"],
    ),
    "by a re-export of everything": (
        {"lib": "", "a": "mod x; mod y; pub use x::*;", "a/x": "use super::y::Y; pub struct X;", "a/y": "use super::X;"},
        ["a::x a::y"],
    ),
    "a file named mod": ({"lib": "", "a/mod": "use crate::b::B;", "b": "use crate::a::A;"}, ["a b"]),
    "two circles": (
        {"lib": "", "a": "use crate::b::B;", "b": "use crate::{a::A, c::C};", "c": "use crate::d::D;", "d": "use crate::c::C;"},
        ["a b", "c d"],
    ),
    "in a macro": ({"lib": "", "a": "macro_rules! m { () => { $crate::b::f() } }", "b": "use crate::a::A;"}, ["a b"]),
    "in an inline module": ({"lib": "", "a": "mod inner { use super::super::b::B; }", "b": "use crate::a::A;"}, ["a b"]),
    "in tests only": (
        {
            "lib": "",
            "a": "#[cfg(test)]\n#[allow(unused)]\nmod tests { use crate::b::B; fn f<A, B>() { g('}', \"}\") } }",
            "b": "use crate::a::A; #[cfg(test)] mod tests;",
            "b/tests": "use crate::a::A;",
        },
        [],
    ),
    "behind test code": (
        {"lib": "", "a": "#[cfg(test)] fn f<A, B>() -> [A; 2] { h() }\nuse crate::b::B;", "b": "use crate::a::A;"},
        ["a b"],
    ),
    "in comments and strings": (
        {
            "lib": "",
            "a": "//! [`crate::b`]\n/* crate::b */ const T: &str = r#\"crate::b::B \"#; fn f<'a>() { '\\'' }",
            "b": "use crate::a::A;",
        },
        [],
    ),
    "in a restricted visibility": ({"lib": "", "a": "mod x; use x::X; pub struct A;", "a/x": "pub(in crate::a) struct X;"}, []),
    "names of other crates": ({"lib": "", "a": "use std::fs; fn f() { fs::read(b::C) }", "b": "use crate::a::{A, fs};"}, []),
}


def self_test():
    """Checks the cases above."""
    for name, (files, expected) in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            source = pathlib.Path(folder)
            for file, text in files.items():
                path = source / f"{file}.rs"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            uses = uses_of(modules_of(source))
        found = sorted(" ".join(sorted("::".join(module) for module in group)) for group in circles(uses))
        if found != expected:
            raise SystemExit(f"circles.py, case {name!r}: expected {expected}, found {found}: {uses}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="also print who uses whom")
    parser.add_argument("--self-test", action="store_true", help="check this script on small made-up crates")
    arguments = parser.parse_args()
    if arguments.self_test:
        self_test()
        return
    found = sum(check(source, arguments.list) for source in SOURCES)
    if found:
        print("To break a circle, move what two modules share into a module below both.")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
