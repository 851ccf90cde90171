"""The names of Launchpad that the seed's session imports, made of Countersign's HTTP APIs.

The session was written for Launchpad's own test runner, where everything is
in one process. Here each name does the same thing to a running server:

    XMLRPCTestTransport      carries calls to COUNTERSIGN_PRIVATE
    ILoginTokenSet.get()     getLoginToken on the private API
    canonical_url()          the token's handshake_url
    getView()()              a real HTTP request to that URL

Launchpad's host names stay in the session: this module alone maps them.
"""

import os
import sys
import xmlrpc.client
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

PRIVATE_HOST = "xmlrpc-private.launchpad.dev:8087"
PUBLIC_ROOT = "http://launchpad.dev"
HANDSHAKE = "+bugtracker-handshake"


class XMLRPCTestTransport(xmlrpc.client.Transport):
    """Carries what is addressed to Launchpad's private host to COUNTERSIGN_PRIVATE."""

    def request(self, host, handler, request_body, verbose=False):
        if host != PRIVATE_HOST:
            raise ValueError(f"the session calls {host}, which is not mapped to a server")
        private_host = urlsplit(os.environ["COUNTERSIGN_PRIVATE"]).netloc
        try:
            return super().request(private_host, handler, request_body, verbose)
        finally:
            self.close()


class LoginToken:
    """What the private API tells of one token."""

    def __init__(self, details):
        self.tokentype = SimpleNamespace(name=details["token_type"], title=details["title"])
        self.date_consumed = details["date_consumed"]
        self.handshake_url = details["handshake_url"]

    def __repr__(self):
        return f"<LoginToken at {id(self):#x}>"


class ILoginTokenSet:
    """The interface that the session asks getUtility for."""


class LoginTokenSet:
    def get(self, token_id):
        api = xmlrpc.client.ServerProxy(
            f"http://{PRIVATE_HOST}/bugs", transport=XMLRPCTestTransport(use_builtin_types=True))
        return LoginToken(api.getLoginToken(token_id))


def getUtility(interface):
    return {ILoginTokenSet: LoginTokenSet}[interface]()


@dataclass
class LaunchpadTestRequest:
    method: str


def canonical_url(token, request, rootsite, view_name):
    """The token's handshake URL, as it reads when Launchpad serves it."""
    if (rootsite, view_name) != ("mainsite", HANDSHAKE):
        raise ValueError(f"no {view_name} on {rootsite}: only {HANDSHAKE} on the mainsite is mapped")
    public = os.environ["COUNTERSIGN_PUBLIC"]
    if not token.handshake_url.startswith(public + "/"):
        raise AssertionError(f"{token.handshake_url} is not below the public URL {public}")
    return PUBLIC_ROOT + token.handshake_url.removeprefix(public)


class Answer(str):
    """Status and text of an HTTP answer. A session shows it without quotes."""

    __repr__ = str.__str__


def getView(token, view_name, request):
    if view_name != HANDSHAKE:
        raise ValueError(f"no view {view_name}: only {HANDSHAKE} is mapped")

    def view():
        try:
            answer = urlopen(Request(token.handshake_url, method=request.method), timeout=10)
        except HTTPError as refusal:
            answer = refusal
        with answer:
            return Answer(f"{answer.status} {answer.read().decode('utf-8')}".rstrip("\n"))

    return view


MODULES = {
    "xmlrpclib": vars(xmlrpc.client),
    "zope.component": {"getUtility": getUtility},
    "canonical.functional": {"XMLRPCTestTransport": XMLRPCTestTransport},
    "canonical.launchpad.interfaces": {"ILoginTokenSet": ILoginTokenSet},
    "canonical.launchpad.webapp": {"canonical_url": canonical_url},
    "canonical.launchpad.webapp.servers": {"LaunchpadTestRequest": LaunchpadTestRequest},
}


def install():
    """Make the modules importable, and return the names a session has without importing them."""
    for name, members in MODULES.items():
        module = ModuleType(name)
        vars(module).update({key: value for key, value in members.items() if not key.startswith("__")})
        sys.modules[name] = module
    return {"getView": getView}
