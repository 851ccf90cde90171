"""What the WSGI and the ASGI middleware have in common: the login path, its answers, and sessions in a signed cookie.

Nothing is stored. The cookie says who is logged in, until when, and where, and is signed with HMAC-SHA256, so that anybody can read
it but only this tracker can write it.
"""

import hashlib
import hmac
import json
import logging
import re
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import datetime, timezone
from typing import Callable, List, NamedTuple, Optional, Tuple
from urllib.parse import urlsplit

from .handshake import (
    MalformedToken, Refused, SetupError, UnexpectedAnswer, Verified, Verifier, VerifyError, _normal,
)

DAY = 86400
# Browsers forget a cookie after 400 days.
MAX_LIFETIME = 400 * DAY
MIN_SECRET = 32
MAX_NAME = 256
# Browsers keep 4096 bytes of a cookie.
MAX_COOKIE = 4096

# The headers by which a request says that it loads a page before anybody asked for it.
PREFETCH_HEADERS = ('sec-purpose', 'purpose', 'x-purpose', 'x-moz')

_log = logging.getLogger('countersign_verifier')


class Login(NamedTuple):
    """A user who is logged in."""

    user: str
    issuer: Optional[str]
    since: datetime


class Answer(NamedTuple):
    """An answer of the login path."""

    status: int
    headers: List[Tuple[str, str]]
    body: bytes


class Logins:
    """Decides what is a login and what is a session. The middlewares take the same arguments.

    - `user`: the user that the issuer is logged in as. Sessions of a former name end.
    - `secret`: at least 32 random bytes that sign sessions, the same in every process of the tracker. Without it each process
      makes its own, and its sessions end with it.
    - `lifetime`: seconds that a session lasts. A signed cookie cannot be taken back before but by changing the secret.
    - `login_path`: below which tokens arrive, as the application sees it; the path of the base URL and `/launchpad-auth` if
      nothing is said. Needed where something in front takes the path of the base URL away.
    - `cookie_name`, and `clock`, which gives seconds since 1970.
    """

    def __init__(self, verifier: Verifier, *, user: str = 'launchpad', secret: Optional[bytes] = None, lifetime: int = DAY,
                 login_path: Optional[str] = None, cookie_name: str = 'launchpad_session',
                 clock: Callable[[], float] = time.time) -> None:
        base = urlsplit(verifier.audience or '')
        base_path = base.path.rstrip('/')
        if not user or len(user.encode('utf-8', 'surrogatepass')) > MAX_NAME or re.search('[\x00-\x1f\x7f-\x9f]', user):
            raise SetupError('user', 'user must not be empty, longer than 256 bytes, or have control characters in it')
        if not re.fullmatch('[0-9A-Za-z_-]+', cookie_name):
            raise SetupError('cookie_name', 'cookie_name must be letters, digits, - and _ only')
        if not 1 <= lifetime <= MAX_LIFETIME:
            raise SetupError('lifetime', 'lifetime must be from 1 second to 400 days')
        if secret is not None and not isinstance(secret, bytes):
            raise SetupError('secret', 'secret must be bytes, not %s' % type(secret).__name__)
        if secret is not None and len(secret) < MIN_SECRET:
            raise SetupError('secret', 'secret has %d bytes; give at least %d random ones' % (len(secret), MIN_SECRET))
        login_path = base_path + '/launchpad-auth' if login_path is None else login_path
        if not re.fullmatch('/[0-9A-Za-z/_.~%-]*[0-9A-Za-z_.~%-]', login_path):
            raise SetupError('login_path', 'login_path must be like /launchpad-auth: a slash, then letters, digits, and any of '
                                           '/ - _ . ~ %, and no slash at the end')
        if not re.fullmatch('[!-:<-~]*', base_path):
            raise SetupError('audience', 'the path of the audience must be percent-encoded ASCII without a semicolon')
        self.verifier, self.user, self.login_path = verifier, user, login_path
        self._key = hashlib.sha256(b'countersign session\0' + (secret or secrets.token_bytes(MIN_SECRET))).digest()
        self._lifetime, self._cookie_name, self._clock = int(lifetime), cookie_name, clock
        # A session of another tracker with the same secret is none of this one.
        self._tracker = _normal(verifier.audience or '') or ''
        self._attributes = '; HttpOnly; SameSite=Lax%s; Path=%s; Max-Age=%d' % (
            '; Secure' if base.scheme == 'https' else '', base_path or '/', self._lifetime)

    def __repr__(self) -> str:
        return 'Logins(%r, user=%r, login_path=%r)' % (self.verifier, self.user, self.login_path)

    def token_in(self, path: str) -> Optional[str]:
        """What stands where a token should, if this is the login path."""
        if path == self.login_path:
            return ''
        below = self.login_path + '/'
        return path[len(below):] if path.startswith(below) else None

    def refuse_early(self, method: str, header: Callable[[str], str], token: str) -> Optional[Answer]:
        """The answer to a request that must not use a token up, `None` if the issuer is to be asked."""
        if method != 'GET':  # HEAD too
            return _answer(405, 'Only GET requests are accepted here.', ('Allow', 'GET'), method)
        if any(word in header(name).lower() for name in PREFETCH_HEADERS for word in ('prefetch', 'preview')):
            return _refuse('This request only loads a page in advance, so it did not use the token up.')
        if token == 'check':
            return _refuse('This tracker logs in whoever brings a login token in place of the word check.')
        return None

    def accept(self, verified: Verified) -> Answer:
        """The answer to a good token, with a new session."""
        _log.info('logged in by token as %s', self.user)
        return _answer(200, 'Logged in as %s.' % self.user, ('Set-Cookie', self._open(verified.issuer)))

    def refuse(self, error: VerifyError) -> Answer:
        """The answer to any other token. Settings are none of a caller's business: they are in the log only."""
        level = {MalformedToken: logging.DEBUG, Refused: logging.WARNING}.get(type(error), logging.ERROR)
        _log.log(level, 'refused a login by token: %s', error)
        return _refuse(_sentence(error))

    def find(self, cookies: str) -> Optional[Login]:
        """Who sends this `Cookie` header. A browser may send several cookies of one name, of which an old one can come first."""
        for cookie in cookies.split(';'):
            name, _, value = cookie.strip().partition('=')
            login = self._recognise(value) if name == self._cookie_name else None
            if login:
                return login
        return None

    def _open(self, issuer: Optional[str]) -> str:
        since = self._clock()
        session = {'id': secrets.token_hex(16), 'tracker': self._tracker, 'user': self.user, 'issuer': _short(issuer),
                   'since': since, 'until': since + self._lifetime}
        content = urlsafe_b64encode(json.dumps(session).encode('ascii')).decode('ascii').rstrip('=')
        return '%s=%s.%s%s' % (self._cookie_name, self._sign(content), content, self._attributes)

    def _recognise(self, value: str) -> Optional[Login]:
        signature, dot, content = value.partition('.')
        # The signature comes first, in constant time: nothing else that a caller can write is looked at.
        if not dot or len(value) > MAX_COOKIE or not value.isascii() or not hmac.compare_digest(signature, self._sign(content)):
            return None
        session = json.loads(urlsafe_b64decode(content + '=' * (-len(content) % 4)))
        if session['tracker'] != self._tracker or session['user'] != self.user or self._clock() >= session['until']:
            return None
        return Login(session['user'], session['issuer'], datetime.fromtimestamp(session['since'], timezone.utc))

    def _sign(self, content: str) -> str:
        # With the cookie's name: what is signed as one thing cannot be shown as another.
        signed = '%s=%s' % (self._cookie_name, content)
        return hmac.new(self._key, signed.encode('ascii'), hashlib.sha256).hexdigest()


def _short(issuer: Optional[str]) -> Optional[str]:
    return issuer if issuer is not None and len(issuer.encode('utf-8', 'replace')) <= MAX_NAME else None


def _sentence(error: VerifyError) -> str:
    if isinstance(error, MalformedToken):
        return 'That is not a login token: a token is 1 to 4096 letters and digits.'
    if isinstance(error, Refused):
        return 'The issuer refused this token: ' + {
            403: 'it is for another bug tracker.',
            404: 'it is not one of its own.',
            429: 'too many from here were refused lately. Try again later.',
        }.get(error.status, 'it was used already, has expired or was revoked. Take a new one.')
    if isinstance(error, UnexpectedAnswer):
        return "The issuer's answer was not understood. The administrator of this tracker finds the reason in its log."
    return 'The issuer could not be asked. Try again later.'


def _refuse(sentence: str) -> Answer:
    # RFC 9110 section 11.6.1 wants a challenge with every 401.
    return _answer(401, sentence, ('WWW-Authenticate', 'LoginToken realm="launchpad-auth"'))


def _answer(status: int, sentence: str, header: Tuple[str, str], method: str = 'GET') -> Answer:
    body = (sentence + '\n').encode('utf-8')
    headers = [('Content-Type', 'text/plain; charset=utf-8'), ('Content-Length', str(len(body))),
               ('Cache-Control', 'no-store'), header]
    return Answer(status, headers, b'' if method == 'HEAD' else body)
