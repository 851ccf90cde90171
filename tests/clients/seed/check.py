"""Runs a session of the seed as a doctest against a running Countersign.

    check.py             runs session.txt, our own telling of the session
    check.py DOCUMENT    runs Launchpad's original document

COUNTERSIGN_PRIVATE and COUNTERSIGN_PUBLIC name the server's base URLs. Exit
status 1 and a report of the first difference if an example does not hold.
"""

import doctest
import io
import re
import sys
from pathlib import Path

import adapter

SESSION = Path(__file__).with_name("session.txt")

# Launchpad's document was written before the code: where an answer belongs, it
# has these words, and the prose above them says which HTTP status is meant.
PLACEHOLDERS = [
    ("SOMETHING HAPPEN", "200", "Handshake token validated."),
    ("SOMETHING ELSE HAPPEN", "401", "Token has already been used or is invalid."),
    ("OH NOES, NOW SOMETHING ELSE HAPPEN", "405", "Only POST requests are accepted for bugtracker handshakes."),
]


class NotTheSeed(Exception):
    """The document lacks something that the original has."""


def complete(original):
    """The original document as a Python 3 doctest with its answers filled in.

    Raises NotTheSeed unless every change finds its place.
    """
    # The second half is commented out. It specifies the protocol all the same.
    text, commented = re.subn(r"(?m)^#", "", original)
    if not commented:
        raise NotTheSeed("no commented-out part")

    # Python 2's print statement.
    text, prints = re.subn(r"(?m)^( +>>> )print (.+)$", r"\1print(\2)", text)
    if prints != 3:
        raise NotTheSeed(f"{prints} print statements where 3 were expected")

    for placeholder, status, answer in PLACEHOLDERS:
        places = list(re.finditer(rf"(?m)^( +){re.escape(placeholder)}$", text))
        if len(places) != 1:
            raise NotTheSeed(f"{len(places)} lines {placeholder!r} where 1 was expected")
        before, after = text[:places[0].start()], text[places[0].end():]
        told = re.findall(r"HTTP\s+(\d{3})\b", before)
        if told[-1:] != [status]:
            raise NotTheSeed(f"the prose above {placeholder!r} does not say HTTP {status}")
        text = f"{before}{places[0][1]}{status} {answer}{after}"
    return text


def run(text, name):
    """Runs a session: how many examples it has, and the report of a failure ("" if none)."""
    session = doctest.DocTestParser().get_doctest(text, adapter.install(), name, name, 0)
    if not session.examples or len(session.examples) != text.count(">>> "):
        raise NotTheSeed(f"{len(session.examples)} examples found where {text.count('>>> ')} were expected")
    report = io.StringIO()
    doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS | doctest.FAIL_FAST).run(
        session, out=report.write)
    return len(session.examples), report.getvalue()


def main(document=None):
    path = Path(document) if document else SESSION
    try:
        text = path.read_text(encoding="utf-8")
        examples, report = run(complete(text) if document else text, path.name)
    except OSError as error:
        sys.exit(f"{path}: {error.strerror}")
    except NotTheSeed as error:
        sys.exit(f"{path}: {error}")
    if report:
        sys.exit(report)
    print(f"{examples} examples")


if __name__ == "__main__":
    main(*sys.argv[1:])
