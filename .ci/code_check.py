"""Checks the shape of the code: width of lines, length of files, the first line of each file, and cycles
between modules.

Run by `make lint-shape`. Prints every finding and exits with code 1 if there is one. Needs only the standard
library.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_COLUMNS = 110
MAX_LINES = 600
WIDE = {".rs", ".py", ".md", ".sh", ".sbatch", ".toml", ".yml", ".c", ""}
# Generated files, files of others, and figures of a run.
FREE = re.compile(
    r"LICENSE|Cargo\.lock|docs/usage\.md|docs/benchmarks/|docs/scaling/(.*/|tables\.md|answers\.md)"
    r"|tests/fuzz/c"
    r"|.*\.(snap|csv|json|svg|txt)$"
)


def project_files():
    """Every text file that git tracks or would add: its path relative to the root, and its text."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in sorted(filter(None, subprocess.check_output(listed, cwd=ROOT, text=True).split("\0"))):
        try:
            yield Path(name), (ROOT / name).read_text()
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            pass


def too_wide(path, text):
    """Lines beyond the limit. Table rows, addresses and program output in Markdown are exempt."""
    for number, line in enumerate(text.splitlines(), 1):
        fixed = re.match(r"\s*(//[/!] )?(\||\+[-=])", line) if path.suffix in {".md", ".rs"} else None
        if path.suffix == ".md" and line.startswith("    ") and "images/s, imbalance" in line:
            fixed = True
        if len(line) > MAX_COLUMNS and not fixed and "://" not in line:
            yield f"{path}:{number}: {len(line)} columns are more than {MAX_COLUMNS}"


def code_of(text):
    """Rust code without comments, strings and tests. Test modules are at the end of a file."""
    text = re.split(
        r"^#\[cfg\((?:all\()?test\b.*\]\n(?:#\[.*\]\n)*(?:pub(?:\(crate\))? )?mod \w+ \{", text, flags=re.M
    )[0]
    text = re.sub(r'(?<![\w\'])b?r?(#*)"(?:\\.|[^"\\])*?"\1', '""', text, flags=re.S)
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)


def leaves(tree, prefix=()):
    """The paths of a use tree with their local names: `a::{b, c as d}` is a::b and a::c."""
    tree = tree.strip()
    brace = tree.find("{")
    if brace < 0:
        path, _, alias = tree.partition(" as ")
        parts = prefix + tuple(part.strip() for part in path.split("::") if part.strip())
        if parts and parts[-1] == "self":
            parts = parts[:-1]
        if parts:
            yield parts, alias.strip() or parts[-1]
        return
    head = prefix + tuple(part.strip() for part in tree[:brace].split("::") if part.strip())
    depth, start = 0, brace + 1
    for place in range(brace, len(tree)):
        depth += (tree[place] == "{") - (tree[place] == "}")
        if (tree[place] == "," and depth == 1) or depth == 0:
            if tree[start:place].strip():
                yield from leaves(tree[start:place], head)
            start = place + 1
        if depth == 0:
            break


class Modules:
    """The modules below src, one per file, and the modules that each one uses."""

    def __init__(self, sources):
        self.code = {}
        for path, text in sources.items():
            parts = path.with_suffix("").parts[1:]
            parts = parts[:-1] if parts[-1] == "mod" else parts
            if parts != ("main",) and parts[-1:] != ("tests",):
                self.code[() if parts == ("lib",) else parts] = code_of(text)
        self.exports = {module: dict(self.re_exports(module)) for module in self.code}

    def uses(self, module, public):
        pattern = r"\b(pub(?:\([\w ]+\))? )?use ([^;]+);"
        for visible, tree in re.findall(pattern, self.code[module]):
            if bool(visible) == public:
                yield from leaves(re.sub(r"\s+", " ", tree))

    def re_exports(self, module):
        for path, name in self.uses(module, public=True):
            yield name, path

    def absolute(self, module, path):
        """The path from the crate's root; None for a path in another crate."""
        if path[0] == "crate":
            return path[1:]
        if path[0] in ("self", "super"):
            base, path = list(module), list(path)
            while path and path[0] in ("self", "super"):
                if path.pop(0) == "super":
                    base = base[:-1]
            return tuple(base) + tuple(path)
        if module + path[:1] in self.code:
            return module + tuple(path)
        return None

    def owner(self, path, depth=0):
        """The module that defines the item at a path from the root, through re-exports."""
        for length in range(len(path), -1, -1):
            module = path[:length]
            if module in self.code:
                rest = path[length:]
                if rest and rest[0] in self.exports[module] and depth < 8:
                    found = self.absolute(module, self.exports[module][rest[0]])
                    if found is not None:
                        return self.owner(found + rest[1:], depth + 1)
                return module
        return None

    def used_by(self, module):
        code = self.code[module]
        body = re.sub(r"\b(?:pub(?:\([\w ]+\))? )?use [^;]+;", "", code)
        paths = [path for path, _ in self.uses(module, public=False)]
        # A re-export counts only if the module itself uses the name.
        paths += [path for path, name in self.uses(module, public=True) if re.search(rf"\b{name}\b", body)]
        paths += [tuple(found.split("::")) for found in re.findall(r"\b(?:crate|super|self)(?:::\w+)+", body)]
        children = {found[-1] for found in self.code if found[:-1] == module and found}
        paths += [
            (child, item) for child, item in re.findall(r"(?<![:\w])(\w+)::(\w+)", body) if child in children
        ]
        for path in paths:
            absolute = self.absolute(module, path)
            owner = None if absolute is None else self.owner(absolute)
            # A file may use items that the module of its folder defines.
            if owner is not None and owner != module[: len(owner)]:
                yield owner


def components(graph):
    """Strongly connected components with more than one node (Tarjan)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            component = []
            while not component or component[-1] != node:
                component.append(stack.pop())
            if len(component) > 1:
                found.append(sorted(component))

    sys.setrecursionlimit(10_000)
    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def cycles(sources):
    """Cycles between files, and between top-level modules."""
    modules = Modules(sources)
    files = {module: sorted(set(modules.used_by(module))) for module in modules.code if module}
    tops = {}
    for module, used in files.items():
        tops.setdefault(module[:1], set()).update(other[:1] for other in used if other[:1] != module[:1])
    for what, graph in (("files", files), ("modules", tops)):
        for component in components(graph):
            inside = set(component)
            edges = [
                f"{'::'.join(a)} → {'::'.join(b)}"
                for a in component
                for b in graph[a]
                if b in inside and a != b
            ]
            yield f"src: a cycle of {what}: {', '.join(edges)}"


def main():
    findings, sources = [], {}
    for path, text in project_files():
        if FREE.match(str(path)):
            continue
        if path.suffix in WIDE:
            findings += too_wide(path, text)
        if path.suffix in {".rs", ".py"} and text.count("\n") > MAX_LINES:
            findings.append(f"{path}: {text.count(chr(10))} lines are more than {MAX_LINES}")
        if path.suffix == ".rs" and path.parts[0] == "src":
            sources[path] = text
            if not text.startswith("//! "):
                findings.append(f"{path}: the first line does not say what the file is for (//! …)")
    findings += cycles(sources)
    print(
        "\n".join(findings) if findings else f"code-check: {len(sources)} source files, nothing to correct."
    )
    return bool(findings)


if __name__ == "__main__":
    sys.exit(main())
