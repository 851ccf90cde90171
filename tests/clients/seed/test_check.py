"""The seed's check must be able to fail: wrong answers and documents that are not the seed.

Needs a running server, as check.py does.
"""

import unittest

import check

# A document with everything that complete() looks for, and nothing else.
COMPLETE = """\
Answers HTTP
200.

    >>> print 1
    1
    >>> print 2
    2
    >>> view()
    SOMETHING HAPPEN

#Answers HTTP 401 (Unauthorized).
#
#    >>> view()
#    SOMETHING ELSE HAPPEN
#
#Answers HTTP 405.
#
#    >>> view()
#    OH NOES, NOW SOMETHING ELSE HAPPEN
#    >>> print 3
#    3
"""


class WrongExpectations(unittest.TestCase):
    """session.txt with one expectation changed."""

    def assert_fails(self, right, wrong):
        session = check.SESSION.read_text(encoding="utf-8")
        self.assertIn(f"    {right}\n", session)
        _, report = check.run(session.replace(f"    {right}\n", f"    {wrong}\n", 1), "changed session")
        self.assertIn(f"Expected:\n    {wrong}\n", report)

    def test_title(self):
        self.assert_fails("Launchpad is authenticating itself with a remote bug tracker.", "Nobody is.")

    def test_fresh_token(self):
        self.assert_fails("False", "True")

    def test_url(self):
        self.assert_fails("http://launchpad.dev/token/.../+bugtracker-handshake", "http://launchpad.dev/...-hand")

    def test_first_post(self):
        self.assert_fails("200 Handshake token validated.", "201 Handshake token validated.")

    def test_date_consumed(self):
        self.assert_fails("20...-...-... ...:...:...", "False")

    def test_second_post(self):
        self.assert_fails("401 Token has already been used or is invalid.", "200 Handshake token validated.")

    def test_get(self):
        self.assert_fails("405 Only POST requests are accepted for bugtracker handshakes.", "405")

    def test_unmapped_host(self):
        session = check.SESSION.read_text(encoding="utf-8")
        changed = session.replace("xmlrpc-private.launchpad.dev", "launchpad.dev")
        self.assertNotEqual(changed, session)
        self.assertIn("not mapped", check.run(changed, "changed session")[1])


class TheOriginal(unittest.TestCase):
    """The changes that make Launchpad's document run."""

    def assert_refused(self, document, reason):
        with self.assertRaisesRegex(check.NotTheSeed, reason):
            check.complete(document)

    def test_everything_is_replaced(self):
        text = check.complete(COMPLETE)
        self.assertIn("    >>> print(3)\n    3\n", text)
        for _, status, answer in check.PLACEHOLDERS:
            self.assertIn(f"    >>> view()\n    {status} {answer}\n", text)
        for leftover in ("#", "HAPPEN", "print 1"):
            self.assertNotIn(leftover, text)

    def test_each_placeholder_must_be_there(self):
        for placeholder, _, _ in check.PLACEHOLDERS:
            self.assert_refused(COMPLETE.replace(f" {placeholder}\n", " 200\n"), "0 lines")

    def test_a_placeholder_is_there_once(self):
        self.assert_refused(COMPLETE + "    SOMETHING HAPPEN\n", "2 lines")

    def test_the_prose_gives_the_status(self):
        for status in ("200", "401", "405"):
            self.assert_refused(COMPLETE.replace(status, "302"), f"does not say HTTP {status}")

    def test_the_commented_part_must_be_there(self):
        self.assert_refused(COMPLETE.replace("#", ""), "no commented-out part")

    def test_the_print_statements_must_be_there(self):
        self.assert_refused(COMPLETE.replace("print 1", "1"), "2 print statements")

    def test_a_document_without_examples_does_not_pass(self):
        with self.assertRaisesRegex(check.NotTheSeed, "0 examples"):
            check.run("Nothing to do.\n", "empty session")


if __name__ == "__main__":
    unittest.main()
