"""Each client talks to one running server, as any stranger would.

`./test clients` brings what they need, and runs them. After that, one alone:
`COUNTERSIGN_BIN=target/debug/countersign target/test/clients/bin/pytest tests/clients -k tours`
"""

import os
import sys

import pytest


@pytest.mark.parametrize("command", [
    pytest.param((sys.executable, "python/client.py"), id="python"),
    pytest.param(("perl", "perl/client.pl"), id="perl"),
    pytest.param(("ruby", "ruby/client.rb"), id="ruby"),
    pytest.param(("php", "php/client.php"), id="php"),
    pytest.param(("node", "node/client.js"), id="node"),
])
def test_client(run, command):
    run(*command)


def test_session_holds_as_we_tell_it(run):
    run(sys.executable, "seed/check.py")


def test_session_check_can_fail(run):
    run(sys.executable, "seed/test_check.py")


def test_original_session_holds(run):
    document = os.environ.get("COUNTERSIGN_SEED")
    if not document:
        pytest.skip("COUNTERSIGN_SEED does not name Launchpad's document")
    run(sys.executable, "seed/check.py", os.path.abspath(document))


def test_tours_of_readme_and_book_hold(run):
    run(sys.executable, "tour/check.py")


# It is the last one, because it stops the server.
def test_server_logs_no_token_and_stops_on_sigterm(server, http):
    token = http("POST", server.environment["COUNTERSIGN_PRIVATE"] + "/v1/tokens")
    for _ in range(2):
        http("POST", token["handshake_url"])
    assert server.stop() == (0, ""), server.new_log()
    assert token["id"] in server.log(), "the replay is logged"
    assert token["token_id"] not in server.log(), "the text of the token is not"
