"""Python's xmlrpc.client in conversation with a running Countersign.

COUNTERSIGN_PRIVATE and COUNTERSIGN_PUBLIC name the base URLs of its two
listeners. The first answer that differs from the protocol ends the script
with one sentence and exit status 1.
"""

import os
import socket
import sys
import xmlrpc.client
from datetime import datetime, timedelta, timezone
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

PRIVATE = os.environ["COUNTERSIGN_PRIVATE"]
PUBLIC = os.environ["COUNTERSIGN_PUBLIC"]
TRACKER = "https://trac.example.org/"


def same(what, got, expected):
    if got != expected:
        sys.exit(f"{what}: expected {expected!r}, got {got!r}")


def holds(what, truth):
    if not truth:
        sys.exit(f"{what}: it is not so")


def fault(what, code, call, *params):
    """The call must be refused with this fault code and a sentence."""
    try:
        result = call(*params)
    except xmlrpc.client.Fault as refusal:
        same(f"{what}: fault code", refusal.faultCode, code)
        holds(f"{what}: the fault carries a sentence", " " in refusal.faultString)
    else:
        sys.exit(f"{what}: expected fault {code}, got {result!r}")


def http(method, url, **form):
    body = urlencode(form).encode() if form else None
    try:
        answer = urlopen(Request(url, data=body, method=method), timeout=10)
    except HTTPError as refusal:
        answer = refusal
    with answer:
        return answer.status, answer.read().decode("utf-8").rstrip("\n"), answer.headers


def handshake(token_id):
    """Where a tracker redeems a token, made from the base URL it was configured with."""
    return f"{PUBLIC}/token/{token_id}/+bugtracker-handshake"


socket.setdefaulttimeout(10)  # seconds; ServerProxy has no timeout of its own
api = xmlrpc.client.ServerProxy(f"{PRIVATE}/bugs", use_builtin_types=True)

# Issue two tokens and look at one.
token_id = api.newBugTrackerToken()
other_id = api.newBugTrackerToken()
holds("a token is ASCII letters and digits only", token_id.isascii() and token_id.isalnum())
holds("two tokens differ", token_id != other_id)

token = api.getLoginToken(token_id)
same("token_id", token["token_id"], token_id)
same("token_type", token["token_type"], "BUGTRACKER")
same("title", token["title"], "Launchpad is authenticating itself with a remote bug tracker.")
same("handshake_url", token["handshake_url"], handshake(token_id))
same("canonical_url", token["canonical_url"], f"{PUBLIC}/token/{token_id}")
same("audience of an unbound token", token["audience"], "")
same("date_consumed of a fresh token", token["date_consumed"], False)
created, expires = token["date_created"], token["date_expires"]
holds("date_created and date_expires are dates", isinstance(created, datetime) and isinstance(expires, datetime))
holds("date_expires is after date_created", created < expires)
utc_now = datetime.now(timezone.utc).replace(tzinfo=None)
holds("date_created is in UTC", abs(utc_now - created) < timedelta(minutes=5))

# The first POST redeems it, and only the first.
status, text, headers = http("POST", handshake(token_id))
same("first POST", (status, text), (200, "Handshake token validated."))
same("Cache-Control", headers["Cache-Control"], "no-store")
consumed = api.getLoginToken(token_id)["date_consumed"]
holds("date_consumed is a date after the POST", isinstance(consumed, datetime))
holds("date_consumed is within the token's life", created <= consumed <= expires)
status, text, headers = http("POST", handshake(token_id))
same("second POST", (status, text), (401, "Token has already been used or is invalid."))
holds("a 401 carries WWW-Authenticate", headers["WWW-Authenticate"])

# Only POST is accepted, and no other method consumes. (Nor did consuming the first token consume this one.)
status, text, headers = http("GET", handshake(other_id))
same("GET", (status, text), (405, "Only POST requests are accepted for bugtracker handshakes."))
same("Allow", headers["Allow"], "POST")
same("date_consumed after a GET", api.getLoginToken(other_id)["date_consumed"], False)
same("POST after the GET", http("POST", handshake(other_id))[0], 200)

# A bound token is for its own tracker alone.
bound_id = api.newBugTrackerToken(TRACKER)
same("audience of a bound token", api.getLoginToken(bound_id)["audience"], TRACKER)
same("bound token, no audience stated", http("POST", handshake(bound_id))[0], 403)
same("bound token, another audience", http("POST", handshake(bound_id), audience="https://evil.example.net/")[0], 403)
same("date_consumed after two refusals", api.getLoginToken(bound_id)["date_consumed"], False)
same("bound token, its audience spelt otherwise",
     http("POST", handshake(bound_id), audience="HTTPS://Trac.Example.ORG:443")[0], 200)

# Faults.
fault("a token this server never issued", -32500, api.getLoginToken, "nosuchtoken")
fault("a method there is not", -32601, api.noSuchMethod)
fault("too few parameters", -32602, api.getLoginToken)
fault("a parameter of the wrong type", -32602, api.newBugTrackerToken, 42)

# Introspection.
methods = {"newBugTrackerToken", "getLoginToken", "revokeLoginToken", "system.listMethods",
           "system.methodSignature", "system.methodHelp", "system.multicall"}
same("methods that system.listMethods leaves out", methods - set(api.system.listMethods()), set())
holds("system.methodHelp says something", api.system.methodHelp("newBugTrackerToken"))
holds("system.methodSignature knows the call with no parameter",
      ["string"] in api.system.methodSignature("newBugTrackerToken"))

# Two calls in one; the fault of one is not the other's.
calls = xmlrpc.client.MultiCall(api)
calls.newBugTrackerToken()
calls.getLoginToken("nosuchtoken")
results = calls()
same("POST of a token issued by multicall", http("POST", handshake(results[0]))[0], 200)
fault("a fault in a multicall", -32500, lambda: results[1])

# Revoke.
revoked_id = api.newBugTrackerToken()
same("revoking a live token", api.revokeLoginToken(revoked_id), True)
same("revoking it again", api.revokeLoginToken(revoked_id), False)
same("POST of a revoked token", http("POST", handshake(revoked_id))[:2],
     (401, "Token has already been used or is invalid."))

# Compressed calls.
class CompressingTransport(xmlrpc.client.Transport):
    encode_threshold = 0  # bytes


compressing = xmlrpc.client.ServerProxy(f"{PRIVATE}/bugs", transport=CompressingTransport())
same("POST of a token issued by a compressed call", http("POST", handshake(compressing.newBugTrackerToken()))[0], 200)
