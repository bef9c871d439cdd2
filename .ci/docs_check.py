"""Checks the documentation: links, `make` targets, docs/usage.md, and words that must not appear.

Run by `make docs-check` (inside .ci/with-mpi, which sets NIIMPI_BIN). Prints all findings and exits with code
1 if there is one. Needs only the standard library.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Paths of one machine, unfinished text, and words outside the project's vocabulary (docs/architecture.md).
FORBIDDEN = [
    (re.compile(r"(?<![\w.~$}])/(?:home|root|work|Users)/\w+"), "a path of somebody's machine"),
    (re.compile(r"\b(?:TODO|FIXME|XXX|TBD)\b"), "a mark of something unfinished"),
    (re.compile(r"^(?:<{7}|>{7}) ", re.M), "a conflict mark"),
    (re.compile(r"\b(?:todo|unimplemented)!\("), "an unfinished function"),
    (re.compile(r"\b(?:master|slave)s?\b", re.I), "a word to replace by root and rank"),
]
# Some of these words are other people's names for things: branches, actions, a licence, an argument of ip.
FORBIDDEN_FREE = {".ci/docs_check.py", "tests/cluster/machine.py", "LICENSE-APACHE", "Cargo.lock"}


def project_files():
    """Every text file that git tracks or would add, as paths relative to the root."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in sorted(filter(None, subprocess.check_output(listed, cwd=ROOT, text=True).split("\0"))):
        try:
            yield Path(name), (ROOT / name).read_text()
        except (UnicodeDecodeError, FileNotFoundError):
            pass  # a binary fixture, or a file deleted and not yet committed


def anchors(markdown):
    """The anchors of a page's headings, as on GitHub."""
    prose = re.sub(r"^```.*?^```", "", markdown, flags=re.M | re.S)
    seen = {}
    for title in re.findall(r"^#+ +(.+?) *$", prose, flags=re.M):
        slug = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower()).replace(
            " ", "-"
        )
        seen[slug] = seen.get(slug, -1) + 1
        yield slug if not seen[slug] else f"{slug}-{seen[slug]}"


def check_links(path, text):
    """Checks that relative links lead to a file and their anchors to a heading. Does not check web
    addresses."""
    prose = re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        found = (ROOT / path.parent / file) if file else ROOT / path
        if not found.exists():
            yield f"{path}: the link {target} leads nowhere"
        elif anchor and found.suffix == ".md" and anchor not in set(anchors(found.read_text())):
            yield f"{path}: {target}: there is no such heading"


def check_make_targets(path, text, targets):
    """Checks that every `make X` on a page exists."""
    for target in re.findall(r"(?:^|`|\$ )make ((?!-)[a-z][a-z-]*)", text, flags=re.M):
        if target not in targets:
            yield f"{path}: `make {target}` is no target of the Makefile"


def check_usage():
    """Checks that docs/usage.md is the program's current help."""
    usage = ROOT / "docs/usage.md"
    printed = subprocess.run([ROOT / ".ci/usage"], capture_output=True, text=True)
    if printed.returncode:
        yield f".ci/usage failed: {printed.stderr.strip() or 'niimpi --help did not exit with 0'}"
    elif not usage.exists() or usage.read_text() != printed.stdout:
        yield "docs/usage.md is not what niimpi prints: run `make docs`"


def main():
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), flags=re.M))
    findings, pages = [], 0
    for path, text in project_files():
        if str(path) not in FORBIDDEN_FREE:
            for pattern, what in FORBIDDEN:
                for hit in pattern.finditer(text):
                    findings.append(
                        f"{path}:{text.count(chr(10), 0, hit.start()) + 1}: {hit.group().strip()!r} is {what}"
                    )
        if path.suffix == ".md":
            pages += 1
            findings += check_links(path, text)
            findings += check_make_targets(path, text, targets)
    findings += check_usage()
    print("\n".join(findings) if findings else f"docs-check: {pages} pages, nothing to correct.")
    return bool(findings)


if __name__ == "__main__":
    sys.exit(main())
