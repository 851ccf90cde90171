#!/usr/bin/env python3
"""Takes the tours of README.md and of docs/tour.md, as printed, against the server that the environment names.

    COUNTERSIGN_PUBLIC=URL COUNTERSIGN_PRIVATE=URL COUNTERSIGN_BIN=FILE tour/check.py

A ```console block is a terminal: lines after `$ ` are typed into one shell, and what follows each must be what comes
back. A ```pycon block is a Python session, run as a doctest. The default addresses, which the pages print, stand for
those of the server; everything else is taken as it stands.
"""

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
# Each page with how many commands and lines of Python it has at least, so that none can get lost.
PAGES = {"README.md": (5, 0), "docs/tour.md": (16, 4)}
DEFAULTS = {"COUNTERSIGN_PUBLIC": "http://127.0.0.1:8080", "COUNTERSIGN_PRIVATE": "http://127.0.0.1:8087"}
SERVE = "cargo run --release -- serve"
MARK = "--- end of a step ---"
SECONDS = 30


def addressed(text):
    """The text with the server's addresses in place of the defaults."""
    for name, default in DEFAULTS.items():
        text = text.replace(default, os.environ[name])
    return text


def blocks(page, kind):
    return re.findall(rf"^```{kind}\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def steps(block):
    """Pairs of a command and the output that is printed below it."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def check_terminal(page):
    """Type every command into one shell. Returns how many there were."""
    tour = [step for block in blocks(page, "console") for step in steps(block)]
    served, expected = tour.pop(0)
    assert served == SERVE, f"{page} begins with {served!r}, not with {SERVE!r}"
    # The server is this one, and has printed its two lines already: they only have to be of this form.
    assert expected == "".join(f"{name} {DEFAULTS[f'COUNTERSIGN_{name.upper()}']}\n" for name in ("public", "private"))
    script = "".join(f"{addressed(command)}\necho '{MARK}'\n" for command, _ in tour)
    binary = os.path.dirname(os.environ["COUNTERSIGN_BIN"])
    environment = os.environ | {
        "PATH": f"{binary}:{os.environ['PATH']}",
        "COUNTERSIGN_SERVER": os.environ["COUNTERSIGN_PRIVATE"],
    }
    shell = subprocess.run(
        ["bash"], input=script, env=environment, timeout=SECONDS, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    outputs = shell.stdout.split(f"{MARK}\n")
    assert len(outputs) == len(tour) + 1, f"the shell ended early:\n{shell.stdout}\n{shell.stderr}"
    for (command, expected), output in zip(tour, outputs):
        assert output == addressed(expected), (
            f"$ {command}\n{page} says:\n{expected}\nit answers:\n{output}\n{shell.stderr}")
    return len(tour)


def check_python(page):
    """Run every Python session as a doctest. Returns how many lines there were."""
    sessions = blocks(page, "pycon")
    parsed = doctest.DocTestParser().get_doctest(addressed("\n".join(sessions)), {}, page, page, 0)
    runner = doctest.DocTestRunner(verbose=False)
    results = runner.run(parsed)
    assert results.failed == 0, f"{results.failed} of {results.attempted} lines of {page} differ"
    return results.attempted


def main():
    try:
        for page, (least_commands, least_lines) in PAGES.items():
            commands, lines = check_terminal(page), check_python(page)
            assert commands >= least_commands and lines >= least_lines, (
                f"only {commands} commands and {lines} lines of Python were found in {page}")
            print(f"{page}: {commands} commands, {lines} lines of Python")
    except AssertionError as difference:
        sys.exit(f"The tour does not go as printed.\n{difference}")


if __name__ == "__main__":
    main()
