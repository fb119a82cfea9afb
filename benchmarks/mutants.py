"""Would a test notice? Single-line mutants of the library, each run against the tests of its room.

    python benchmarks/mutants.py [--count 100] [--seed 0] [--only steelnb/data] [--out FILE.jsonl] [--list]

A mutant changes one operator or number: a comparison, `and` for `or`, a sign, a number by one, `min` for `max`, `any`
for `all`, True for False, a clamp or a `not` left out. Docstrings, messages and pictures are not changed. It dies where
a test fails (or the import does, or nothing ends within ten minutes), first those of its module, then of its room. The
copy of the repository in which that happens is a clone of the last commit. The tests that failed are run once more on
the clone as it was: they must pass. Whether a survivor is another program at all is for people to say.
"""

import argparse
import ast
import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas  # noqa: F401  what takes seconds to import is imported once
import pytest
import scipy.ndimage
import scipy.stats  # noqa: F401
import torch  # noqa: F401

REPOSITORY = Path(__file__).resolve().parents[1]
SECONDS = 600
OF_THE_TOP = {"__main__": ["test_cli.py"], "options": ["test_cli.py"], "runtime": ["test_runtime.py"],
              "storage": ["test_storage.py"], "__init__": ["test_face.py"]}
OPERATORS = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "is": "is not", "is not": "is",
             "in": "not in", "not in": "in", "+": "-", "-": "+", "*": "/", "/": "*", "//": "*", "%": "//", "**": "*",
             "&": "|", "|": "&", "<<": ">>", ">>": "<<", "and": "or", "or": "and"}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "minimum": "maximum", "maximum": "minimum",
         "floor": "ceil", "ceil": "floor", "amin": "amax", "amax": "amin", "argmax": "argmin", "argmin": "argmax"}
MESSAGES = {"print", "say", "report", "names", "add", "add_argument", "tqdm", "describe", "warn"}


class Mutant(NamedTuple):
    """Another text for a piece of one line; columns count characters."""

    file: str
    line: int
    start: int
    end: int
    text: str

    def applied(self, source: str) -> str:
        """The module with it."""
        lines = source.splitlines(keepends=True)
        line = lines[self.line - 1]
        lines[self.line - 1] = line[: self.start] + self.text + line[self.end :]
        return "".join(lines)


def no_number(node: ast.AST) -> bool:
    """Whether an operand is a text, a list, a set or a path at first sight: other operators would only crash there."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str | bytes)
    kinds = ast.JoinedStr | ast.List | ast.ListComp | ast.Set | ast.SetComp | ast.Dict | ast.Tuple
    name = getattr(node, "attr", getattr(getattr(node, "func", node), "attr", getattr(node, "id", "")))
    paths = ("folder", "out", "made", "parent", "Path", "place", "run", "PACKAGE")
    return isinstance(node, kinds) or name in (*paths, "keys")


def mutants_of(file: str, source: str) -> Iterator[Mutant]:
    """All of a module, in the order of its lines."""
    lines = source.splitlines()

    def at(node: ast.AST, text: str) -> Iterator[Mutant]:
        if node.lineno == node.end_lineno:
            line = lines[node.lineno - 1].encode()
            start, end = (len(line[:k].decode()) for k in (node.col_offset, node.end_col_offset))
            yield Mutant(file, node.lineno, start, end, text)

    def between(left: ast.AST, right: ast.AST) -> Iterator[Mutant]:
        if left.end_lineno == right.lineno:
            line = lines[left.end_lineno - 1].encode()
            start, end = len(line[: left.end_col_offset].decode()), len(line[: right.col_offset].decode())
            found = re.fullmatch(r"([\s)]*)(\S+|is not|not in)(\s*[\s(]*)", line.decode()[start:end])
            if found and found[2] in OPERATORS:
                text = found[1] + OPERATORS[found[2]] + found[3]
                yield Mutant(file, left.end_lineno, start, end, text)

    def walk(node: ast.AST) -> Iterator[Mutant]:
        if isinstance(node, ast.JoinedStr | ast.Raise | ast.Assert | ast.Import | ast.ImportFrom):
            return
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in MESSAGES:
            return
        if isinstance(node, ast.AnnAssign):
            yield from walk(node.value) if node.value else ()
            return
        if isinstance(node, ast.FunctionDef):
            plain, named = node.args.posonlyargs + node.args.args, node.args.kwonlyargs
            defaults = [*zip(reversed(plain), reversed(node.args.defaults), strict=False),
                        *zip(named, node.args.kw_defaults, strict=True)]
            for child in (*(value for name, value in defaults if value and name.arg != "progress"), *node.body):
                yield from walk(child)
            return
        if isinstance(node, ast.Compare):
            for left, right in zip((node.left, *node.comparators), node.comparators, strict=False):
                yield from between(left, right)
        elif isinstance(node, ast.BoolOp):
            for left, right in zip(node.values, node.values[1:], strict=False):
                yield from between(left, right)
        elif isinstance(node, ast.BinOp) and not any(map(no_number, (node.left, node.right))):
            yield from between(node.left, node.right)
        elif isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.Invert):
            yield from at(node, f"({ast.unparse(node.operand)})")
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            yield from at(node, str(not node.value))
        elif isinstance(node, ast.Constant) and isinstance(node.value, int):
            for step in (1, -1):
                yield from at(node, str(node.value + step))
        elif isinstance(node, ast.Attribute | ast.Name) and (name := getattr(node, "attr", getattr(node, "id", ""))):
            if name in NAMES and isinstance(node.ctx, ast.Load):
                yield from at(node, ast.unparse(node).removesuffix(name) + NAMES[name])
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("clip", "clamp"):
            plain = node.args[0] if ast.unparse(node.func.value) in ("np", "torch") else node.func.value
            yield from at(node, f"({ast.unparse(plain)})")
        for child in ast.iter_child_nodes(node):
            yield from walk(child)

    for found in walk(ast.parse(source)):
        try:
            ast.parse(found.applied(source))
        except SyntaxError:  # an operand in brackets
            continue
        yield found


def chosen(tree: Path, count: int, seed: int, only: str) -> list[Mutant]:
    """A sample: a module at random, then one of its mutants, none twice and two of one line neither."""
    rng, taken, lines = random.Random(seed), [], set()
    files = sorted(p for p in (tree / "steelnb").rglob("*.py") if p.parent.name != "figures")
    files = [p.relative_to(tree).as_posix() for p in files]
    pools = {f: list(mutants_of(f, (tree / f).read_text("utf-8"))) for f in files if f.startswith(only)}
    pools = {f: pool for f, pool in pools.items() if pool}
    while len(taken) < count and pools:
        file = rng.choice(list(pools))
        one = pools[file].pop(rng.randrange(len(pools[file])))
        if (file, one.line) not in lines:
            lines.add((file, one.line))
            taken.append(one)
        pools = {f: pool for f, pool in pools.items() if pool}
    return taken


def suites(file: str, tree: Path) -> list[list[str]]:
    """The tests of a module, and then the others of its room, those that speak of it first; paths below `tree`."""
    room, name = Path(file).parent.name, Path(file).stem
    if room == "steelnb":
        return [["tests/" + test for test in OF_THE_TOP.get(name, [])]]
    own = f"tests/{room}/test_{name}.py"
    tests = sorted((tree / "tests" / room).glob("test_*.py"))
    tests.sort(key=lambda test: -len(re.findall(rf"\b{name}\b", test.read_text("utf-8"))))
    rest = [test.relative_to(tree).as_posix() for test in tests]
    return [[own], [p for p in rest if p != own]] if own in rest else [rest]


def failed(tree: Path, tests: list[str]) -> str:
    """The first test that fails in `tree`, "import", "time", or "" where all pass."""
    output = tree.parent / "output.txt"
    child = multiprocessing.get_context("fork").Process(target=_run, args=(tree, tests, output))
    child.start()
    child.join(SECONDS)
    if child.is_alive():
        os.killpg(child.pid, signal.SIGKILL)
        child.join()
        return "time"
    if child.exitcode in (0, 5):
        return ""
    found = re.search(r"^(?:FAILED|ERROR) (\S+?::\S+)", output.read_text("utf-8", "replace"), re.MULTILINE)
    return found[1] if found else "import"


def _run(tree: Path, tests: list[str], output: Path) -> None:
    """In a process that has the packages already, and nothing of the library."""
    os.setsid()
    os.chdir(tree)
    sys.path[:0] = [str(tree)]
    os.environ |= {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os._exit(pytest.main(["-q", "-x", "--no-header", "-p", "no:cacheprovider", *tests]))


def _set(path: Path, source: str) -> None:
    """Writes a module; a compiled one of the same second and length would be taken for it."""
    path.write_text(source, "utf-8")
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
        compiled.unlink()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=100, metavar="N", help="how many mutants (default 100)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the sample (default 0)")
    parser.add_argument("--only", default="", metavar="PATH", help="files that begin so, such as steelnb/data")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON lines; what is in it already is not run again")
    parser.add_argument("--list", action="store_true", help="show the sample and run nothing")
    options = parser.parse_args()
    done = []
    if options.out and options.out.exists():
        done = [json.loads(line) for line in options.out.read_text("utf-8").splitlines()]
    known = {(each["file"], each["line"], each["text"]) for each in done}
    with tempfile.TemporaryDirectory() as place:
        tree = Path(place) / "tree"
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", REPOSITORY, tree], check=True)
        for number, one in enumerate(chosen(tree, options.count, options.seed, options.only)):
            path = tree / one.file
            source = path.read_text("utf-8")
            was = source.splitlines()[one.line - 1]
            now = one.applied(source).splitlines()[one.line - 1]
            if not options.list and (one.file, one.line, one.text) not in known:
                _set(path, one.applied(source))
                killer = next(filter(None, (failed(tree, tests) for tests in suites(one.file, tree))), "")
                _set(path, source)
                done.append(one._asdict() | {"was": was.strip(), "now": now.strip(), "killed_by": killer})
                if options.out:
                    with options.out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(done[-1], ensure_ascii=False) + "\n")
            told = "" if options.list else done[-1]["killed_by"] or "SURVIVED"
            print(f"{number} {one.file}:{one.line} {told}\n  - {was.strip()}\n  + {now.strip()}", flush=True)
        if options.list:
            return 0
        tests = sorted({each["killed_by"] for each in done} - {"", "import", "time"})
        if tests and (broken := failed(tree, tests)):
            print(f"{broken} fails on the library as it is")
            return 1
    killed = sum(bool(each["killed_by"]) for each in done)
    print(f"{killed} of {len(done)} mutants died; those that lived may be the same program")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
