"""Log Launchpad, or any issuer of login tokens, in to Trac, and let it do its work there.

The issuer's worker asks for `GET {trac}/launchpad-auth/{token}`. Before it answers, Trac asks the issuer
at the URL *configured* in trac.ini, `POST https://issuer.example.org/token/{token}/+bugtracker-handshake`,
whether it made that token. HTTP 200 means yes, and happens once per token: the caller then gets an ordinary
Trac session as the configured user. Anything else means no, and the caller gets 401. With its session the
worker calls the methods `launchpad.*` at `{trac}/xmlrpc`.

- `Verifier` is the handshake and knows nothing of Trac. It is the package countersign-verifier, between two marks, so that
  this plugin is installed in one step: docs/design/plugins-carry-their-verifier.md has the reasons. `verifiers/vendor` makes
  the copy; everything else here is written by hand.
- `LaunchpadLogin` is the login that Trac sees.
- `LaunchpadRPC` has the methods for tickets and comments.
- `LaunchpadAdmin` has the commands of `trac-admin`: `launchpad setup`, `launchpad check`.

README.md says how to install and configure it.
"""

import io
import logging
import re
import secrets
import time
import xmlrpc.client
from datetime import datetime, timezone
from email.utils import parseaddr
from xml.parsers import expat

from trac import __version__ as trac_version
from trac.admin.api import AdminCommandError, IAdminCommandProvider
from trac.config import ConfigurationError, FloatOption, Option, PathOption
from trac.core import Component, ExtensionPoint, TracError, implements
from trac.notification.api import NotificationSystem
from trac.perm import IPermissionRequestor, PermissionSystem
from trac.resource import Resource, ResourceNotFound
from trac.ticket.api import ITicketManipulator, TicketSystem
from trac.ticket.model import Ticket
from trac.ticket.notification import TicketChangeEvent
from trac.util.datefmt import datetime_now, from_utimestamp, to_utimestamp, utc
from trac.util.text import exception_to_unicode, printout, to_unicode
from trac.web.api import IRequestFilter, IRequestHandler
from trac.web.auth import LoginModule
from trac.web.chrome import Chrome
from trac.web.main import FakeSession

__version__ = '0.2.0'

PATH = '/launchpad-auth/'

# How the cookie of a session begins that a token opened. The session of a person does not begin so.
SESSION_MARK = 'launchpad-'
SESSION_SECONDS = 10 * 86400

# A browser or a mail reader that loads a page before anybody asked for it says so in one of these.
PREFETCH_HEADERS = ('Sec-Purpose', 'Purpose', 'X-Purpose', 'X-Moz')

USED_UP = 'it has been used already, has expired or was revoked. Ask the issuer for a new one.'
SENTENCES = {
    401: USED_UP,
    410: USED_UP,
    403: 'it was issued for another bug tracker than this one.',
    404: 'it is not one of its tokens.',
    429: 'too many tokens from here have been refused lately. Try again later.',
}

AUTH_SERVER_HINT = ('Set it to the URL of the issuer\'s handshake, with %s where the token goes, such as '
                    'https://launchpad.net/token/%s/+bugtracker-handshake')


# --- verifiers/python/countersign_verifier/handshake.py, put here by verifiers/vendor: change it there

import asyncio
import json
import logging
import re
import secrets
import socket
import ssl
import time
from datetime import datetime
from http.client import BadStatusLine, HTTPConnection, HTTPException, HTTPResponse, RemoteDisconnected, parse_headers
from ipaddress import ip_address
from queue import Empty, SimpleQueue
from threading import BoundedSemaphore, Thread
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple, Union
from urllib.parse import SplitResult, urlencode, urlsplit

DEFAULT_TIMEOUT = 10.0
MAX_TIMEOUT = 60.0

# Questions that one verifier asks at the same time. Each has a thread, so a flood of logins must not have as many as it likes.
MAX_QUESTIONS = 64

# Letters and digits only, so no token can change another part of the issuer's URL.
TOKEN = re.compile('[0-9A-Za-z]{1,4096}')

REFUSALS = (401, 403, 404, 410, 429)

# The issuer, or a gateway in front of it, says that it could not answer.
NO_ANSWER = (502, 503, 504)

# Bytes. Claims have at most 1 KiB.
MAX_JSON = 16 * 1024

STATUS_LINE = re.compile(rb'(HTTP/1\.[01]) ([1-9][0-9]{2})(?: ([^\r\n]*))?\r?\n')

_log = logging.getLogger('countersign_verifier')


class SetupError(ValueError):
    """A setting that cannot work. `setting` is its name; the text says what to do."""

    def __init__(self, setting: str, sentence: str) -> None:
        super().__init__(sentence)
        self.setting = setting


class VerifyError(Exception):
    """The token is not accepted. No text of these errors has the token in it."""


class MalformedToken(VerifyError):
    """It cannot be a token, so the issuer was not asked."""

    def __init__(self) -> None:
        super().__init__('that is not a login token: a token is 1 to 4096 letters and digits')


class Refused(VerifyError):
    """The issuer said no, with this `status`: 401, 403, 404, 410 or 429."""

    def __init__(self, status: int) -> None:
        why = {
            403: 'it is for another bug tracker than the audience that is configured here',
            404: 'it is not one of its tokens; check that the URL of the issuer is right',
            429: 'too many tokens from here were refused lately; try again later',
        }.get(status, 'it was used already, has expired or was revoked; take a new one')
        super().__init__('the issuer refused the token (HTTP %d): %s' % (status, why))
        self.status = status


class Unreachable(VerifyError):
    """The issuer gave no answer, also not when it was asked again. The token may still be good, or used up.

    `status` is 502, 503 or 504 where the issuer, or a gateway, said so itself.
    """

    def __init__(self, issuer: str, reason: str, status: Optional[int] = None) -> None:
        super().__init__('the issuer %s could not be asked: %s; try again later' % (issuer, reason))
        self.issuer, self.reason, self.status = issuer, reason, status


class UnexpectedAnswer(VerifyError):
    """What answered, with this `status`, is neither a yes nor a no that the protocol knows."""

    def __init__(self, issuer: str, status: int, reason: str) -> None:
        super().__init__('the issuer %s answered HTTP %d, but %s; check that the URL of the issuer is right'
                         % (issuer, status, reason))
        self.issuer, self.status, self.reason = issuer, status, reason


class Verified(NamedTuple):
    """What the issuer says of a token that was good, and is used up now.

    An issuer that answers in plain text, as Launchpad does, says nothing beyond the yes; then all of this is empty.
    """

    issuer: Optional[str] = None
    audience: Optional[str] = None
    claims: Dict[str, Any] = {}
    date_created: Optional[datetime] = None
    date_consumed: Optional[datetime] = None


class Verifier:
    """Asks one issuer whether login tokens are its own. It can be used by many threads and tasks at once.

    - `issuer`: the issuer's base URL, such as `https://launchpad.net`, or the URL of its handshake with `%s` where the token
      goes. It must come from configuration, never from a request.
    - `audience`: the tracker's own base URL, from its configuration: never from a `Host` header, which a caller chooses.
      **Set it.** Without it tokens for this tracker alone are refused, and other trackers can bring theirs here.
    - `timeout`: seconds for one whole answer, from the first look at the issuer's name to the last byte that is read.
    - `ca_file`: PEM file with the certificate authorities to trust, instead of the machine's.
    - `proxy`: `http://HOST:PORT` of a proxy that allows CONNECT. The environment's proxy variables are ignored: under CGI a
      caller can set them by a header.
    - `allow_insecure_http`: permits an `http` issuer on another machine, for a way that is protected by other means. Without
      TLS anybody on the way can answer in the issuer's place and log in.

    A setting that cannot work raises `SetupError`.
    """

    def __init__(self, issuer: str, *, audience: Optional[str] = None, timeout: float = DEFAULT_TIMEOUT,
                 ca_file: Optional[str] = None, proxy: Optional[str] = None, allow_insecure_http: bool = False) -> None:
        self._template, url = _issuer_url(issuer)
        self._scheme, self._netloc, self.host = url.scheme, url.netloc, url.hostname or ''
        self.issuer = '%s://%s' % (url.scheme, url.netloc.lower())
        self.is_protected = url.scheme == 'https' or _is_loopback(self.host)
        if not self.is_protected and not allow_insecure_http:
            raise SetupError('allow_insecure_http',
                             'the issuer %s would be asked without TLS, so that anybody on the way could answer in its place '
                             'and log in here; use https, or permit it with allow_insecure_http if the way is protected by '
                             'other means' % self.issuer)
        if not 0 < timeout <= MAX_TIMEOUT:
            raise SetupError('timeout', 'timeout must be more than 0 and at most %g seconds' % MAX_TIMEOUT)
        if audience is not None:
            audience = audience.strip()
            check_audience(audience)
        self.audience, self.timeout = audience, timeout
        self._proxy = None
        if proxy is not None:
            self._proxy = _split(proxy, ('http',))
            if not self._proxy or self._proxy.path not in ('', '/') or self._proxy.query or '#' in proxy:
                raise SetupError('proxy', 'proxy must look like http://proxy.example.org:3128')
        self._tls = None
        if url.scheme == 'https':
            try:
                # This context verifies the certificate and the host name.
                self._tls = ssl.create_default_context(cafile=ca_file)
            except OSError as e:
                raise SetupError('ca_file', 'ca_file cannot be read as PEM certificates: %s' % e) from e
            self._tls.minimum_version = ssl.TLSVersion.TLSv1_2
        self._slots = BoundedSemaphore(MAX_QUESTIONS)
        if audience is None:
            _log.warning('no audience is configured: tokens for this tracker alone will be refused, and others can be brought '
                         'here by any tracker that was given them; set the audience to the base URL of this tracker')

    def verify(self, token: str) -> Verified:
        """Ask the issuer to consume `token`. Returns once for each token, and only after the issuer's HTTP 200.

        If the answer gets lost (no connection, no whole answer in time, HTTP 502, 503 or 504), the issuer is asked once more
        with the same `Idempotency-Key`, which it answers the same way. Any other answer is final. So a call takes at most
        three times the timeout: two answers, and the pause that an issuer can ask for with `Retry-After`.
        """
        question = self._question(token)
        answer = self._ask(question)
        pause = self._pause_before_retry(answer)
        if pause is not None:
            time.sleep(pause)
            answer = self._ask(question)
        return self._judge(token, answer)

    async def verify_async(self, token: str) -> Verified:
        """The same for a coroutine. A call that is cancelled hangs up, and may have used the token up."""
        question = self._question(token)
        answer = await self._ask_async(question)
        pause = self._pause_before_retry(answer)
        if pause is not None:
            await asyncio.sleep(pause)
            answer = await self._ask_async(question)
        return self._judge(token, answer)

    def __repr__(self) -> str:
        return 'Verifier(%r, audience=%r, timeout=%g)' % (self.issuer, self.audience, self.timeout)

    def _question(self, token: str) -> '_Question':
        if not isinstance(token, str) or not TOKEN.fullmatch(token):
            raise MalformedToken
        url = urlsplit(self._template.replace('%s', token))
        # The issuer may have consumed the token although its answer was lost. It answers the same key the same way for a
        # minute, so asking once more is safe. Anybody else who comes with this token has another key.
        return _Question(url.path + ('?' + url.query if url.query else ''), secrets.token_hex(16),
                         urlencode({'audience': self.audience} if self.audience else {}))

    def _ask(self, question: '_Question') -> '_Outcome':
        outcomes: 'SimpleQueue[_Outcome]' = SimpleQueue()
        exchange = self._start(question, outcomes.put)
        if not exchange:
            return _TOO_MANY
        try:
            return outcomes.get(timeout=self.timeout)
        except Empty:
            return self._late()
        finally:
            exchange.hang_up()

    async def _ask_async(self, question: '_Question') -> '_Outcome':
        loop = asyncio.get_running_loop()
        future: 'asyncio.Future[_Outcome]' = loop.create_future()

        def settle(outcome: '_Outcome') -> None:
            if not future.done():
                future.set_result(outcome)

        def tell(outcome: '_Outcome') -> None:
            try:
                loop.call_soon_threadsafe(settle, outcome)
            except RuntimeError:
                pass  # the loop is closed, so no caller waits any more

        exchange = self._start(question, tell)
        if not exchange:
            return _TOO_MANY
        try:
            done, _ = await asyncio.wait([future], timeout=self.timeout)
            return future.result() if done else self._late()
        finally:
            exchange.hang_up()

    def _start(self, question: '_Question', tell: 'Callable[[_Outcome], None]') -> 'Optional[_Exchange]':
        if not self._slots.acquire(blocking=False):
            return None
        host, port = self.host, self._port(self._netloc)
        connection = _Connection(host, port, self._tls, self.timeout)
        if self._proxy:
            connection = _Connection(self._proxy.hostname or '', self._proxy.port or 80, self._tls, self.timeout)
            connection.set_tunnel(host, port)
        # As it was configured: http.client would leave the port out for the wrong scheme.
        return _Exchange(connection, question, self._netloc, tell, self._slots.release)

    def _port(self, netloc: str) -> int:
        return urlsplit('//' + netloc).port or (443 if self._scheme == 'https' else 80)

    def _late(self) -> '_Lost':
        return _Lost('no whole answer within %g seconds' % self.timeout)

    def _pause_before_retry(self, answer: '_Outcome') -> Optional[float]:
        """Seconds to wait before asking again, `None` if the answer is final."""
        if isinstance(answer, _Lost):
            return None if answer.final else 0
        if answer.status not in NO_ANSWER:
            return None
        pause = int(answer.retry_after) if re.fullmatch('[0-9]{1,9}', answer.retry_after) else 0
        return pause if pause <= self.timeout else None

    def _judge(self, token: str, answer: '_Outcome') -> Verified:
        if isinstance(answer, _Lost):
            raise Unreachable(self.issuer, answer.reason)
        status = answer.status
        if status in REFUSALS:
            raise Refused(status)
        if status in NO_ANSWER:
            raise Unreachable(self.issuer, 'it answers HTTP %d' % status, status)
        if status != 200:
            raise UnexpectedAnswer(self.issuer, status, 'redirects are not followed' if 300 <= status < 400
                                   else 'that is neither a yes nor a no')
        if answer.json is None:
            return Verified(claims={})  # not the default, which all would share
        verified = _read(answer.json, token, self.audience)
        if isinstance(verified, str):
            raise UnexpectedAnswer(self.issuer, status, verified)
        return verified


class _Question(NamedTuple):
    target: str
    key: str
    form: str

    def __repr__(self) -> str:
        return '_Question'  # it has the token in it


class _Answer(NamedTuple):
    status: int
    retry_after: str = ''
    json: Optional[bytes] = None  # of a 200 alone; of everything else the status is the whole answer


class _Lost(NamedTuple):
    """There is no answer. `final`: asking again does not help."""

    reason: str
    final: bool = False


_Outcome = Union[_Answer, _Lost]

_TOO_MANY = _Lost('%d other questions wait for its answer' % MAX_QUESTIONS, final=True)


class _Exchange:
    """One question, in a thread of its own, because nothing else ends in time.

    A socket's time limit is for one wait: a name server with many addresses, an issuer that sends a byte every other second,
    or `100 Continue` without end would each stay below it and take for ever. So the caller waits for the thread, and after
    its time is up hangs up and believes nothing more.
    """

    def __init__(self, connection: '_Connection', question: _Question, host: str, tell: Callable[[_Outcome], None],
                 over: Callable[[], None]) -> None:
        self._connection = connection

        def run() -> None:
            try:
                outcome = _exchange(connection, question, host)
            finally:
                connection.close()
                over()
            tell(outcome)

        try:
            Thread(target=run, name='countersign-verifier', daemon=True).start()
        except RuntimeError:  # the machine has no thread to give
            over()
            tell(_Lost('no thread could be started', final=True))

    def hang_up(self) -> None:
        self._connection.hang_up()


def _exchange(connection: '_Connection', question: _Question, host: str) -> _Outcome:
    try:
        # http.client follows no redirect and takes no proxy from the environment.
        connection.request('POST', question.target, body=question.form, headers={
            'Host': host,
            'Accept': 'application/json, text/plain;q=0.9',
            'Content-Type': 'application/x-www-form-urlencoded',
            'Idempotency-Key': question.key,
            'User-Agent': 'countersign-verifier-python',
            'Connection': 'close',
        })
        with connection.getresponse() as response:
            return _Answer(response.status, (response.getheader('Retry-After') or '').strip(), _json_of(response))
    except ssl.SSLCertVerificationError as e:
        return _Lost('its certificate is not good: %s' % e.verify_message, final=True)  # the peer is not the issuer
    except OSError as e:
        return _Lost(str(e) or type(e).__name__)
    except (HTTPException, ValueError) as e:
        return _Lost('the answer was not HTTP (%s)' % type(e).__name__)  # its text can quote the other side, and so the token


def _json_of(response: HTTPResponse) -> Optional[bytes]:
    media_type = (response.getheader('Content-Type') or '').partition(';')[0].strip().lower()
    if response.status != 200 or media_type != 'application/json':
        return None
    body = b''
    while len(body) <= MAX_JSON:
        part = response.read(MAX_JSON + 1 - len(body))
        if not part:
            if response.length:
                raise RemoteDisconnected('the connection was closed within the answer')
            break
        body += part
    return body


class _Connection(HTTPConnection):
    """A connection that another thread can end at any point."""

    def __init__(self, host: str, port: int, tls: Optional[ssl.SSLContext], timeout: float) -> None:
        super().__init__(host, port, timeout=timeout)
        self.response_class = _Response
        self._tls, self._name, self._over = tls, host, False

    def set_tunnel(self, host: str, port: Optional[int] = None, headers: Any = None) -> None:
        self._name = host
        super().set_tunnel(host, port, headers)
        if ':' in host:  # Python before 3.12 forgets the brackets
            self._tunnel_host = '[%s]' % host

    def connect(self) -> None:
        super().connect()
        self._go_on()
        if self._tls:
            # The handshake comes after its socket is known, so that it can be ended, too.
            self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._name, do_handshake_on_connect=False)
            self._go_on()
            self.sock.do_handshake()
            self._go_on()

    def _go_on(self) -> None:
        """Raise if the caller has gone. `hang_up` sets the mark before it looks for the socket, so one of the two sees the other."""
        if self._over:
            raise TimeoutError('nobody waits for the answer any more')

    def hang_up(self) -> None:
        self._over = True
        sock = self.sock
        if sock is not None:
            try:
                # It ends the thread's wait. Of a TLS connection, too, the plain socket is shut: its TLS is the thread's.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            except OSError:
                pass  # it is closed already


class _Response(HTTPResponse):
    """Reads a status line to the letter, skips every 1xx, and takes no head for whole whose end is missing."""

    def begin(self) -> None:
        if self.headers is None:
            whole = self.fp
            self.fp = _Lines(whole)
            try:
                super().begin()
            finally:
                if isinstance(self.fp, _Lines):
                    self.fp = whole

    def _read_status(self) -> Tuple[str, int, str]:
        while True:
            line = self.fp.readline(65537)
            if not line:
                raise RemoteDisconnected('the connection was closed without an answer')
            found = STATUS_LINE.fullmatch(line)
            if not found:
                raise BadStatusLine('')
            status = int(found[2])
            # 100 is left to http.client, and 101 is a final answer.
            if status < 102 or status > 199:
                return found[1].decode('ascii'), status, ''
            parse_headers(self.fp)


class _Lines:
    """What http.client reads a head from. It takes the end of a connection for the end of the head; here it is an error."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readline(self, limit: int) -> bytes:
        line: bytes = self._stream.readline(limit)
        if line and not line.endswith(b'\n') and len(line) < limit or not line:
            raise RemoteDisconnected('the connection was closed within the head of the answer' if line
                                     else 'the connection was closed without a whole answer')
        return line

    def close(self) -> None:
        self._stream.close()


def check_audience(audience: str) -> None:
    """Raise `SetupError` unless this is the base URL of a bug tracker."""
    if not audience or len(audience.encode('utf-8', 'surrogatepass')) > 512:
        raise SetupError('audience', 'the audience must be the base URL of the tracker, of at most 512 bytes')
    if not _normal(audience):
        raise SetupError('audience', 'the audience is not a base URL; give that of the tracker, such as '
                                     'https://bugs.example.org/, without user name, password, query (?) and fragment (#)')


def _read(document: bytes, token: str, audience: Optional[str]) -> Union[Verified, str]:
    """What a 200 says in JSON; a text says why it cannot be the answer to this question."""
    if len(document) > MAX_JSON:
        return 'its JSON is too long'
    try:
        said = json.loads(document.decode('utf-8'))
        issuer, bound, claims = said.get('issuer'), said.get('audience'), said.get('claims', {})
        dates = [_date(said.get(name)) for name in ('date_created', 'date_consumed')]
    except (ValueError, AttributeError, RecursionError):
        return 'its JSON is not the protocol\'s'
    if not isinstance(issuer, (str, type(None))) or not isinstance(bound, (str, type(None))) or not isinstance(claims, dict):
        return 'its JSON is not the protocol\'s'
    if said.get('token_id') not in (None, token):
        return 'it is about another token'
    if bound and not audience:
        return 'it is for one bug tracker, and no audience is configured here'
    if bound and (not _normal(bound) or _normal(bound) != _normal(audience or '')):
        return 'it is for another bug tracker'
    return Verified(issuer, bound or None, claims, *dates)


def _date(text: Any) -> Optional[datetime]:
    if text is None:
        return None
    # Python before 3.11 knows neither Z nor fractions of any length.
    found = isinstance(text, str) and re.fullmatch(r'(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:Z|\+00:00)', text)
    if not found:
        raise ValueError
    return datetime.fromisoformat('%s.%s+00:00' % (found[1], (found[2] or '').ljust(6, '0')[:6]))


def _issuer_url(issuer: str) -> Tuple[str, SplitResult]:
    """The URL of a handshake with `%s` in its path, and its parts."""
    hint = ('; give its base URL, such as https://launchpad.net, or the URL of its handshake with %s where the token goes, such '
            'as https://launchpad.net/token/%s/+bugtracker-handshake')
    template = issuer.strip()
    if '%s' not in template and 'bugtracker-handshake' not in template:
        template = template.rstrip('/') + '/token/%s/+bugtracker-handshake'
    if template.count('%s') != 1:
        raise SetupError('issuer', 'the URL of the issuer does not have %s exactly once' + hint)
    url = _split(template, ('http', 'https'))
    if not url:
        raise SetupError('issuer', 'the URL of the issuer is not an http or https URL without user name and password' + hint)
    if '%s' not in url.path or '#' in template or _has_dots(url.path):
        raise SetupError('issuer', 'the place of the token is not in the path of the URL of the issuer' + hint)
    return template, url


def _has_dots(path: str) -> bool:
    return any(re.fullmatch(r'(\.|%2[eE]){1,2}', part) for part in path.split('/'))


def _split(url: str, schemes: Tuple[str, ...]) -> Optional[SplitResult]:
    """Split `url`; `None` if it is not one to connect to, or has a user name or a password in it."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or '').encode('idna')
        good = host and parts.port != 0 and '@' not in parts.netloc
    except ValueError:  # a host or a port that cannot be
        return None
    return parts if good and parts.scheme in schemes and re.fullmatch('[!-~]+', url) and '\\' not in url else None


def _normal(text: str) -> Optional[str]:
    """A base URL in the form in which issuers compare audiences; `None` if it is none."""
    try:
        url = urlsplit(text.strip())
        host = (url.hostname or '').encode('idna').decode('ascii')
        port = url.port
    except ValueError:
        return None
    host = host[:-1] if host.endswith('.') else host
    if url.scheme not in ('http', 'https') or not host or '@' in url.netloc or re.search(r'[?#\\\s\x00-\x20]', text.strip()):
        return None
    path: List[str] = []
    for part in re.sub('%(?![0-9A-Fa-f]{2})', '%25', url.path).split('/')[1:]:
        part = re.sub('%([0-9A-Fa-f]{2})', _normal_octet, part)
        part = re.sub('[^!-~]', lambda found: ''.join('%%%02X' % octet for octet in found[0].encode('utf-8', 'replace')), part)
        if part == '..':
            path = path[:-1]
        elif part != '.':
            path.append(part)
    netloc = '[%s]' % host if ':' in host else host
    if port and port != {'http': 80, 'https': 443}[url.scheme]:
        netloc += ':%d' % port
    return '%s://%s/%s' % (url.scheme, netloc, '/'.join(path).rstrip('/'))


def _normal_octet(found: 're.Match[str]') -> str:
    octet = chr(int(found[1], 16))
    return octet if re.fullmatch('[0-9A-Za-z._~-]', octet) else found[0].upper()


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == 'localhost' or host.endswith('.localhost')


# --- end of verifiers/python/countersign_verifier/handshake.py


# Trac has a log of its own, which says what is missing.
_log.addHandler(logging.NullHandler())


def verifier_of(auth_server, audience='', timeout=5.0, ca_file='', proxy=''):
    """The verifier that trac.ini describes. A setting that cannot work raises `ValueError` with a sentence for the administrator.

    An `http` issuer on another machine is permitted, and Trac's log warns of it.
    """
    if not auth_server:
        raise ValueError('auth_server is not set. ' + AUTH_SERVER_HINT)
    try:
        if '%s' not in auth_server:
            raise SetupError('issuer', 'there is no place for the token')
        return Verifier(auth_server, audience=audience or None, timeout=timeout, ca_file=ca_file or None, proxy=proxy or None,
                        allow_insecure_http=True)
    except SetupError as e:
        if e.setting == 'issuer':
            raise ValueError('auth_server is not the URL of a handshake. ' + AUTH_SERVER_HINT) from e
        raise


class NoSession(Exception):
    """No session for this caller. The text says why; the caller sees it."""


class LaunchpadLogin(Component):
    """Lets an issuer of login tokens, such as Launchpad, log in as one configured user.

    It grants that user nothing: give it permissions with `trac-admin`. The user's name is the issuer's alone: whoever
    comes with it by another way than a token is refused, whether that is a password or a session.
    """

    implements(IRequestHandler, IRequestFilter)

    is_valid_default_handler = False

    auth_server = Option('launchpad', 'auth_server', '',
        """The issuer's handshake URL, with `%s` where the token goes, such as
        `https://launchpad.net/token/%s/+bugtracker-handshake`.""")

    audience = Option('launchpad', 'audience', '',
        """The URL by which the issuer knows this Trac. Tokens that were issued for another bug tracker are
        refused. Defaults to `[trac] base_url`.""")

    user = Option('launchpad', 'user', 'launchpad',
        """The Trac user that the issuer is logged in as.""")

    timeout = FloatOption('launchpad', 'timeout', 5.0,
        """Seconds that the issuer may take for its answer; a lost answer is asked for once more. More than 0, at most
        60.""")

    ca_file = PathOption('launchpad', 'ca_file', '',
        """PEM file with the certificate authorities to trust for `auth_server`, instead of the system's.
        A relative path starts at the directory of trac.ini.""")

    proxy = Option('launchpad', 'proxy', '',
        """HTTP proxy on the way to the issuer, such as `http://proxy.example.org:3128`. It must allow
        CONNECT. The proxy variables of the environment are ignored.""")

    def __init__(self):
        self._verifier = self._made_for = None
        # Trac makes its components once per process: what is wrong is said before anybody tries to log in.
        try:
            issuer = self._issuer()
        except ConfigurationError as e:
            self.log.error("Nobody can log in by token: %s", e)
            return
        if not issuer.is_protected:
            self.log.warning("[launchpad] auth_server is not https: whoever is on the way to %s can log in "
                             "here as %s. Use an https URL.", issuer.host, self.user)
        if not issuer.audience:
            self.log.warning("Neither [launchpad] audience nor [trac] base_url is set: tokens issued for this "
                             "Trac alone will be refused, and others can be used here by any other bug tracker "
                             "that was given them. Set [trac] base_url to the public URL of this Trac.")

    # IRequestHandler methods

    def match_request(self, req):
        return req.path_info == PATH.rstrip('/') or req.path_info.startswith(PATH)

    def process_request(self, req):
        if req.method != 'GET':  # HEAD too: looking must not consume a token
            req.send_header('Allow', 'GET')
            return _send(req, 405, "Only GET requests are accepted here.")
        try:
            user = self._log_in(req, req.path_info[len(PATH):])
        except NoSession as e:
            # Launchpad recognizes the plugin by this status, for any reason of refusal.
            req.send_header('WWW-Authenticate', 'LoginToken realm="launchpad-auth"')
            return _send(req, 401, str(e))
        return _send(req, 200, "Logged in as %s." % user)

    # IRequestFilter methods

    def pre_process_request(self, req, handler):
        if req.path_info.startswith((PATH, '/chrome/')) or req.path_info == '/logout':
            return handler
        if not self.auth_server or self.user in ('', 'anonymous', 'authenticated'):
            return handler  # login by token is off, so no name is the issuer's
        if req.authname == self._user() and not self._has_session(req):
            self.log.warning("Refused a request from %s as %s that no token opened the session of",
                             req.remote_addr, req.authname)
            _send(req, 403, "The name %s is reserved for the issuer of login tokens, and this session was not opened "
                            "by a token or is over. Log in under another name." % req.authname)
        return handler

    def post_process_request(self, req, template, data, metadata):
        return template, data, metadata

    # Internal methods

    def _user(self):
        return self.user.lower() if LoginModule(self.env).ignore_case else self.user

    def _has_session(self, req):
        """Whether a token opened the session that the caller shows, less than ten days ago."""
        cookie = req.incookie['trac_auth'].value if 'trac_auth' in req.incookie else ''
        if not cookie.startswith(SESSION_MARK):
            return False
        oldest = int(time.time()) - SESSION_SECONDS
        for opened, in self.env.db_query("SELECT time FROM auth_cookie WHERE cookie=%s AND name=%s",
                                         (cookie, self._user())):
            if opened >= oldest:
                return True
            # Trac itself ends sessions after ten days, but only when somebody logs in by its own form.
            self.env.db_transaction("DELETE FROM auth_cookie WHERE name=%s AND time<%s", (self._user(), oldest))
        return False

    def _log_in(self, req, token):
        """Return the user's name, with the session cookie in `req`; or raise `NoSession`."""
        if token == 'check':
            raise NoSession("This Trac logs in whoever brings a login token in place of the word check.")
        if not TOKEN.fullmatch(token):
            raise NoSession("That is not a login token: a token is 1 to 4096 letters and digits.")
        if any('prefetch' in (req.get_header(name) or '').lower() or 'preview' in (req.get_header(name) or '').lower()
               for name in PREFETCH_HEADERS):
            raise NoSession("This request only loads a page in advance, so it did not use the token up.")
        user = self._user()
        if req.remote_user not in (None, '', 'anonymous', user):
            # Trac prefers what the web server says to a cookie, so a session would be another user's.
            raise NoSession("The web server has already logged you in as somebody else. Come without a password.")
        self._redeem(token, req.remote_addr)
        self._start_session(req, user)
        return user

    def _redeem(self, token, remote_addr):
        # No message here may contain the token: until it is consumed, it is a password.
        try:
            issuer = self._issuer()
        except ConfigurationError as e:
            self.log.error("Refused a login by token from %s: %s", remote_addr, e)
            raise NoSession("Login by token is not configured here. Its administrator finds the reason in the log "
                          "of this Trac.") from e
        try:
            issuer.verify(token)
        except (Refused, UnexpectedAnswer, Unreachable) as e:
            status = e.status
            if status is None:
                self.log.error("Refused a login by token from %s: no answer from the issuer %s: %s",
                               remote_addr, issuer.host, e.reason)
                raise NoSession("The issuer could not be reached. Try again later.") from e
            self.log.warning("Refused a login by token from %s: the issuer %s answered HTTP %d to the audience %r: %s",
                             remote_addr, issuer.host, status, issuer.audience or '', e)
            if isinstance(e, Unreachable):
                raise NoSession("The issuer cannot answer just now (HTTP %d). Try again later." % status) from e
            if isinstance(e, UnexpectedAnswer):
                raise NoSession("The issuer refused this token: HTTP %d is neither a yes nor a known no. [launchpad] "
                                "auth_server may name the wrong URL." % status if status != 200 else
                                "The issuer's answer was not understood: " + e.reason) from e
            raise NoSession("The issuer refused this token: " + SENTENCES[status]) from e
        self.log.info("Login by token from %s, confirmed by %s", remote_addr, issuer.host)

    def _start_session(self, req, user):
        """Add a session to those of `user`, as Trac's own LoginModule would, and to nobody else's."""
        login = LoginModule(self.env)
        cookie = SESSION_MARK + secrets.token_hex(16)
        now = int(time.time())
        with self.env.db_transaction as db:
            db("DELETE FROM auth_cookie WHERE name=%s AND time<%s", (user, now - SESSION_SECONDS))
            db("INSERT INTO auth_cookie (cookie, name, ipnr, time) VALUES (%s, %s, %s, %s)",
               (cookie, user, req.remote_addr, now))

        # The request may carry cookies of an earlier session, stale or another user's. Nothing of that is
        # carried over: not its settings, and not the order to delete `trac_auth` that Trac answers a stale one with.
        req.session = FakeSession()
        req.outcookie.clear()
        req.outcookie['trac_auth'] = cookie
        attributes = req.outcookie['trac_auth']
        attributes['path'] = login.auth_cookie_path or req.base_path or '/'
        attributes['httponly'] = True
        attributes['samesite'] = 'Strict'  # a program never arrives by a link from another site
        if login.auth_cookie_domain:
            attributes['domain'] = login.auth_cookie_domain
        if login.auth_cookie_lifetime > 0:
            attributes['expires'] = login.auth_cookie_lifetime
        if self.env.secure_cookies:
            attributes['secure'] = True

    def _issuer(self):
        if self.user in ('', 'anonymous', 'authenticated'):
            raise ConfigurationError("[launchpad] user must be the name of a user; it is %r" % self.user)
        try:
            # `base_url` is the configured one. `env.abs_href` and `req.abs_href` can come from the Host header,
            # and with that a hostile bug tracker could have us state its name.
            settings = (self.auth_server, self.audience or self.env.base_url, self.timeout, self.ca_file, self.proxy)
            if settings != self._made_for:
                # One for all requests: it has a limit for how many questions it asks at the same time.
                self._verifier, self._made_for = verifier_of(*settings), settings
            return self._verifier
        except ValueError as e:
            raise ConfigurationError("[launchpad] %s" % e) from e


# The methods that Launchpad calls

RPC_PATH = '/xmlrpc'
RPC_PERMISSION = 'LAUNCHPAD_RPC'
NEEDED = (RPC_PERMISSION, 'TICKET_VIEW', 'TICKET_APPEND')

# Of a request. Trac's own limit for a comment is 262144 characters, and XML can write each in some bytes more.
MAX_BODY = 4 * 1024 * 1024
# The name of the method comes early in a call.
PEEK = 4096
METHOD = re.compile(rb'<methodName>\s*launchpad\.')
KIND_OF_CALL = 'countersign_trac.is_launchpad_call'

# Tickets in one answer that has more than ids in it.
MAX_TICKETS = 10000
# Seconds since 1970, in the year 3000: in microseconds it still fits a database's integer.
LATEST = 32503680000
# Ids in one SQL statement; SQLite takes 999 parameters.
SLICE = 500

IDS_ONLY, METADATA, COMMENT_IDS, COMMENTS = range(4)
COLUMNS = ('id', 'status', 'resolution', 'type', 'component', 'version', 'severity', 'priority', 'milestone', 'owner',
           'reporter', 'summary', 'keywords', 'time', 'changetime')

# The custom field with the link to the issuer's bug.
FIELD = 'launchpad_bug'
FIELD_SETTINGS = ((FIELD, 'text'), (FIELD + '.label', 'Launchpad bug'), (FIELD + '.format', 'wiki'))

# Faults. Launchpad knows the first by its number. The negative ones are those of every XML-RPC server.
NO_SUCH_TICKET = 1001
NOT_PERMITTED = 1002
AGAINST_A_RULE = 1003
NO_FIELD = 1004
NOT_WELL_FORMED = -32700
NO_SUCH_METHOD = -32601
WRONG_ARGUMENTS = -32602
TRAC_SAYS_NO = -32500

# What XML cannot carry, not even escaped.
NOT_XML = re.compile('[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]')
ADDRESS = re.compile(r'[^\s@<>()",:;]+@[^\s@<>()",:;]+')


class LaunchpadRPC(Component):
    """Answers the calls `launchpad.*` at `/xmlrpc`, with what the permissions of the session allow.

    Other calls are left to another plugin, such as TracXMLRPC, if there is one. To call at all a user needs the permission
    `LAUNCHPAD_RPC`; a ticket that it may not see (`TICKET_VIEW`) is missing, and only with `TICKET_APPEND` can it comment
    on a ticket or link it with the issuer's bug.
    """

    implements(IRequestHandler, IRequestFilter, IPermissionRequestor)

    is_valid_default_handler = False

    ticket_manipulators = ExtensionPoint(ITicketManipulator)

    bug_url = Option('launchpad', 'bug_url', 'https://launchpad.net/bugs/%s',
        """What the custom field `launchpad_bug` of a ticket is set to, with `%s` for the number of the issuer's bug.""")

    # IPermissionRequestor methods

    def get_permission_actions(self):
        return [RPC_PERMISSION]

    # IRequestHandler methods

    def match_request(self, req):
        return req.path_info == RPC_PATH and _is_launchpad_call(req)

    def process_request(self, req):
        if not req.is_authenticated:
            # By this status, and no other, Launchpad tells that it has to log in.
            return _send(req, 403, "Log in with a login token first, at launchpad-auth.")
        if RPC_PERMISSION not in req.perm:
            return _send(req, 403, "The user %s lacks the permission %s, which trac-admin can give."
                         % (req.authname, RPC_PERMISSION))
        body = req.environ['wsgi.input'].read(MAX_BODY + 1)
        if len(body) > MAX_BODY:
            return _send(req, 413, "A call may have %d bytes at most." % MAX_BODY)
        _send(req, 200, self._answer(req, body), 'text/xml')

    # IRequestFilter methods

    def pre_process_request(self, req, handler):
        # Another plugin may be first to say that everything at /xmlrpc is for it.
        return self if self.match_request(req) else handler

    def post_process_request(self, req, template, data, metadata):
        return template, data, metadata

    # Internal methods

    def _answer(self, req, body):
        """Make the call that `body` describes, and return the answer's XML, be it a result or a fault."""
        try:
            name, arguments = _parse_call(body)
            method, kinds, needed = self.METHODS.get(name, (None, (), 0))
            if not method:
                raise xmlrpc.client.Fault(NO_SUCH_METHOD, "There is no method %s; there are %s."
                                          % (name, ', '.join(sorted(self.METHODS))))
            if not needed <= len(arguments) <= len(kinds):
                raise xmlrpc.client.Fault(WRONG_ARGUMENTS, "%s takes %d to %d arguments, not %d."
                                          % (name, needed, len(kinds), len(arguments)))
            for place, (argument, kind) in enumerate(zip(arguments, kinds), 1):
                if not isinstance(argument, kind) or isinstance(argument, bool):
                    raise xmlrpc.client.Fault(WRONG_ARGUMENTS, "Argument %d of %s is of the wrong type." % (place, name))
            answer = method(self, req, *arguments)
        except xmlrpc.client.Fault as fault:
            answer = fault
        except ResourceNotFound as e:  # deleted since it was looked up
            answer = xmlrpc.client.Fault(NO_SUCH_TICKET, to_unicode(e))
        except TracError as e:
            answer = xmlrpc.client.Fault(TRAC_SAYS_NO, to_unicode(e))
        if isinstance(answer, xmlrpc.client.Fault):
            self.log.info("A call from %s as %s ended with fault %d: %s", req.remote_addr, req.authname,
                          answer.faultCode, answer.faultString)
            answer.faultString = _text(answer.faultString)
            return xmlrpc.client.dumps(answer, encoding='utf-8')
        return xmlrpc.client.dumps((answer,), methodresponse=True, encoding='utf-8')

    def _time_snapshot(self, req):
        now = datetime_now(req.tz)
        utc_time = _seconds(now)
        return [_text(now.tzname()), utc_time + int(now.utcoffset().total_seconds()), utc_time]

    def _bugtracker_version(self, req):
        return [_text(trac_version), __version__, False]

    def _list_bugs(self, req, criteria=None):
        now, bugs = self._bug_info(req, IDS_ONLY, criteria)
        return [now, [bug['id'] for bug in bugs]]

    def _bug_info(self, req, level, criteria=None):
        now = _now()
        criteria = dict(criteria or {})
        wanted, since = criteria.pop('bugs', None), criteria.pop('modified_since', None)
        if criteria:
            raise xmlrpc.client.Fault(WRONG_ARGUMENTS, "Tickets can be chosen by bugs and modified_since, not by %s."
                                      % ', '.join(sorted(criteria)))
        if level not in range(4):
            raise xmlrpc.client.Fault(WRONG_ARGUMENTS, "The level of detail is 0, 1, 2 or 3.")
        if isinstance(since, datetime):
            since = int(since.replace(tzinfo=since.tzinfo or timezone.utc).timestamp())
        if since is not None and (isinstance(since, bool) or not isinstance(since, int) or abs(since) > LATEST):
            raise xmlrpc.client.Fault(WRONG_ARGUMENTS, "modified_since is the time in seconds since 1970, in UTC.")
        if wanted is None:
            found = self._tickets(req, level, None, since)
            bugs = [found[number] for number in sorted(found)]
        else:
            numbers = [(given, _ticket_number(given)) for given in _strings(wanted, 'bugs')]
            found = self._tickets(req, level, {number for _, number in numbers if number}, since)
            # An id comes back as it was given: Launchpad compares it with its own, and its own are strings.
            bugs = [dict(found[number], id=given) for given, number in numbers if number in found]
            seen = self._visible(req, {number for _, number in numbers if number and number not in found}) \
                if since is not None else ()
            bugs += [{'id': given, 'status': 'missing'} for given, number in numbers
                     if number not in found and number not in seen]
        return [now, bugs]

    def _tickets(self, req, level, numbers, since):
        """Map the numbers of tickets that exist, are visible and have changed since then to what is said of them."""
        columns = COLUMNS if level > IDS_ONLY else COLUMNS[:1]
        found = {}
        for rows in self._select(columns, numbers, since):
            for row in rows:
                if 'TICKET_VIEW' not in req.perm(Resource('ticket', row[0])):
                    continue
                found[row[0]] = self._described(columns, row)
                if level > IDS_ONLY and len(found) > MAX_TICKETS:
                    raise xmlrpc.client.Fault(WRONG_ARGUMENTS, "These are more than %d tickets; ask for fewer, by bugs or "
                                              "modified_since." % MAX_TICKETS)
        if level > IDS_ONLY:
            for number, value in self._links(list(found)):
                found[number]['launchpad_bug'] = _bug_number(value)
        if level >= COMMENT_IDS:
            for ticket in found.values():
                ticket['comments'] = []
            for number, when, author, text in self._comments(list(found)):
                found[number]['comments'].append(
                    _comment_id(number, when) if level == COMMENT_IDS else self._comment(req, number, when, author, text))
        return found

    def _select(self, columns, numbers, since):
        """Yield the rows of these tickets, or of all if `numbers` is `None`, in slices; the key's index finds them."""
        statement = "SELECT %s FROM ticket" % ', '.join(columns)
        after, arguments = ("changetime >= %s", [since * 1000000]) if since is not None else (None, [])
        slices = [None] if numbers is None else _slices(sorted(numbers))
        for part in slices:
            conditions = [condition for condition in (part and "id IN (%s)" % ','.join(['%s'] * len(part)), after)
                          if condition]
            where = " WHERE " + " AND ".join(conditions) if conditions else ""
            yield self.env.db_query(statement + where, (part or []) + arguments)

    def _visible(self, req, numbers):
        """Those of these tickets that exist and that the session may see."""
        return {number for rows in self._select(COLUMNS[:1], numbers, None) for number, in rows
                if 'TICKET_VIEW' in req.perm(Resource('ticket', number))}

    def _described(self, columns, row):
        ticket = {}
        for column, value in zip(columns, row):
            if column in ('time', 'changetime'):
                value = _seconds(from_utimestamp(value or 0))
            ticket[column] = value if isinstance(value, int) else _text(value)
        ticket['id'] = str(row[0])
        if len(columns) > 1:
            ticket['launchpad_bug'] = 0
        return ticket

    def _comments(self, numbers):
        for part in _slices(numbers):
            for row in self.env.db_query("""
                    SELECT ticket, time, author, newvalue FROM ticket_change
                    WHERE ticket IN (%s) AND field='comment' ORDER BY ticket, time
                    """ % ','.join(['%s'] * len(part)), part):
                if (row[3] or '').strip():  # a change of properties leaves an empty one
                    yield row

    def _links(self, numbers):
        for part in _slices(numbers):
            yield from self.env.db_query("SELECT ticket, value FROM ticket_custom WHERE name=%%s AND ticket IN (%s)"
                                         % ','.join(['%s'] * len(part)), [FIELD] + part)

    def _get_comments(self, req, ids):
        comments = []
        for given in _strings(ids, 'comments'):
            number, _, when = given.partition(':')
            found = None
            if _ticket_number(number) and re.fullmatch('[0-9]{1,18}', when) and \
                    'TICKET_VIEW' in req.perm(Resource('ticket', int(number))):
                for author, text in self.env.db_query("""
                        SELECT author, newvalue FROM ticket_change WHERE ticket=%s AND time=%s AND field='comment'
                        """, (int(number), int(when))):
                    found = self._comment(req, int(number), int(when), author, text)
            comments.append(dict(found, id=given) if found else {'id': given, 'type': 'missing'})
        return [_now(), comments]

    def _comment(self, req, number, when, author, text):
        return {'id': _comment_id(number, when), 'type': 'comment', 'user': self._person(req, number, author),
                'comment': _text(text), 'timestamp': _seconds(from_utimestamp(when))}

    def _person(self, req, number, author):
        """`Name <mail>`, as far as the session may know it. Without a mail address the login takes its place."""
        name, address = parseaddr(author or '')
        if not ADDRESS.fullmatch(address):
            name, address = '', ''
        login = re.sub(r'[\s<>()",:;]+', '.', (name or author or '').strip()) or 'anonymous'
        known = self.env.get_known_users(as_dict=True).get(author)
        if known:
            name, address = known[0] or name, known[1] or address
        may_see = Chrome(self.env).show_email_addresses or 'EMAIL_VIEW' in req.perm(Resource('ticket', number))
        if not may_see or not ADDRESS.fullmatch(address or ''):
            # Of an address that is the login itself, no more than Trac shows on its pages.
            address = login.partition('@')[0] if not may_see else login
        name = ' '.join(_text(name).split())
        if not re.fullmatch(r'[\w ]*', name):
            name = '"%s"' % re.sub(r'([\\"])', r'\\\1', name)
        return '%s <%s>' % (name, _text(address)) if name else _text(address)

    def _add_comment(self, req, bug, text):
        if not text.strip():
            raise xmlrpc.client.Fault(WRONG_ARGUMENTS, "A comment needs a text.")
        ticket = self._writable(req, bug)
        when = self._save(req, ticket, text)
        return [_now(), _comment_id(ticket.id, to_utimestamp(when))]

    def _get_launchpad_bug(self, req, bug):
        ticket = self._ticket(req, bug)
        return [_now(), _bug_number(ticket[FIELD] if FIELD in ticket.custom_fields else '')]

    def _set_launchpad_bug(self, req, bug, number):
        if not 0 <= number <= xmlrpc.client.MAXINT:
            raise xmlrpc.client.Fault(WRONG_ARGUMENTS, "The number of a bug is positive; 0 removes the link.")
        ticket = self._writable(req, bug)
        if FIELD not in ticket.custom_fields:
            raise xmlrpc.client.Fault(NO_FIELD, "This Trac has no custom field %s to keep the link in. Its administrator "
                                      "makes one with: trac-admin ENVIRONMENT launchpad setup" % FIELD)
        if _bug_number(ticket[FIELD]) != number:
            ticket[FIELD] = self.bug_url.replace('%s', str(number)) if number else ''
            self._save(req, ticket, '')
        return [_now()]

    def _ticket(self, req, bug):
        """The ticket that the caller means and may see, or fault 1001."""
        number = _ticket_number(bug)
        if number and 'TICKET_VIEW' in req.perm(Resource('ticket', number)):
            try:
                return Ticket(self.env, number)
            except ResourceNotFound:
                pass
        raise xmlrpc.client.Fault(NO_SUCH_TICKET, "Ticket %s does not exist." % (bug,))

    def _writable(self, req, bug):
        ticket = self._ticket(req, bug)
        if 'TICKET_APPEND' not in req.perm(ticket.resource):
            raise xmlrpc.client.Fault(NOT_PERMITTED, "The user %s lacks the permission TICKET_APPEND for ticket %d."
                                      % (req.authname, ticket.id))
        return ticket

    def _save(self, req, ticket, comment):
        """Save a change as the ticket's page does when a person leaves its status as it is; return the change's time.

        Rules of the workflow and plugins that validate tickets or comments have their say, listeners hear of it, and
        notifications are sent.
        """
        action = 'leave'
        if action not in TicketSystem(self.env).get_available_actions(req, ticket):
            raise xmlrpc.client.Fault(AGAINST_A_RULE, "The workflow of this Trac does not let the user %s change ticket %d "
                                      "and leave its status as it is." % (req.authname, ticket.id))
        controllers = [controller for controller in TicketSystem(self.env).action_controllers
                       if action in [name for _, name in controller.get_ticket_actions(req, ticket)]]
        for controller in controllers:
            for field, value in controller.get_ticket_changes(req, ticket, action).items():
                ticket[field] = value
        # Plugins look for the comment where a form would have it.
        req.args.update({'id': str(ticket.id), 'action': action, 'comment': comment, 'submit': 'submit'})
        problems = []
        for manipulator in self.ticket_manipulators:
            if hasattr(manipulator, 'validate_comment'):
                problems += [to_unicode(message) for message in manipulator.validate_comment(req, comment) or ()]
            problems += ['%s: %s' % (field, to_unicode(message)) if field else to_unicode(message)
                         for field, message in manipulator.validate_ticket(req, ticket) or ()]
        if problems:
            raise xmlrpc.client.Fault(AGAINST_A_RULE, ' '.join(problems))

        when = datetime_now(utc)
        ticket.save_changes(req.authname, comment, when=when)
        try:
            NotificationSystem(self.env).notify(TicketChangeEvent('changed', ticket, when, req.authname, comment))
        except Exception as e:  # the change is saved; the ticket's page goes on, too
            self.log.error("Failure sending notification on change to ticket #%s: %s", ticket.id,
                           exception_to_unicode(e, traceback=True))
        for controller in controllers:
            controller.apply_action_side_effects(req, ticket, action)
        return when

    # Of each its function, the types of its arguments, and how many of them it needs.
    METHODS = {
        'launchpad.time_snapshot': (_time_snapshot, (), 0),
        'launchpad.bugtracker_version': (_bugtracker_version, (), 0),
        'launchpad.list_bugs': (_list_bugs, (dict,), 0),
        'launchpad.bug_info': (_bug_info, (int, dict), 1),
        'launchpad.get_comments': (_get_comments, (list,), 1),
        'launchpad.add_comment': (_add_comment, ((str, int), str), 2),
        'launchpad.get_launchpad_bug': (_get_launchpad_bug, ((str, int),), 1),
        'launchpad.set_launchpad_bug': (_set_launchpad_bug, ((str, int), int), 2),
    }


class _Rejoined(io.RawIOBase):
    """The rest of a request's body after its beginning has been read, as a stream of the whole body."""

    def __init__(self, beginning, rest, size):
        self._beginning, self._rest, self._left = beginning, rest, size - len(beginning)

    def readable(self):
        return True

    def readinto(self, buffer):
        if self._beginning:
            data, self._beginning = self._beginning[:len(buffer)], self._beginning[len(buffer):]
        else:
            # No server has to cope with a caller that reads past the end.
            data = self._rest.read(min(len(buffer), self._left)) if self._left > 0 else b''
            self._left -= len(data)
        buffer[:len(data)] = data
        return len(data)


def _is_launchpad_call(req):
    """Whether the body is a call of a method `launchpad.*`. The body can still be read from its beginning afterwards."""
    if KIND_OF_CALL not in req.environ:
        req.environ[KIND_OF_CALL] = False
        kind = (req.get_header('Content-Type') or '').partition(';')[0].strip().lower()
        try:
            size = int(req.get_header('Content-Length') or 0)
        except ValueError:
            size = 0
        # A page of another site can make a browser send a form or plain text, with its user's cookies, but not XML.
        if req.method == 'POST' and kind in ('text/xml', 'application/xml') and size > 0:
            stream = req.environ['wsgi.input']
            beginning = stream.read(min(size, PEEK))
            req.environ['wsgi.input'] = io.BufferedReader(_Rejoined(beginning, stream, size))
            req.environ[KIND_OF_CALL] = METHOD.search(beginning) is not None
    return req.environ[KIND_OF_CALL]


def _parse_call(body):
    """The name of the method and its arguments, or fault -32700.

    Not `xmlrpc.client.loads`: it takes a DOCTYPE, and with it entities that become a billion bytes.
    """
    reader = xmlrpc.client.Unmarshaller(use_builtin_types=True)
    reader.xml(None, None)  # the parser hands out text, not bytes
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    parser.CharacterDataHandler = reader.data

    def refuse(*_):
        raise ValueError("A document type is not allowed.")
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(body, True)
        arguments, name = reader.close(), reader.getmethodname()
    except Exception as e:  # what is not XML-RPC makes the reader stumble in many ways
        raise xmlrpc.client.Fault(NOT_WELL_FORMED, "That is not an XML-RPC call: %s" % e) from e
    return name, arguments


def _now():
    return int(time.time())


def _seconds(moment):
    """The time in seconds since 1970, in UTC, as far as an XML-RPC integer goes."""
    return min(int(moment.timestamp()), xmlrpc.client.MAXINT)


def _text(value):
    return NOT_XML.sub('\N{REPLACEMENT CHARACTER}', to_unicode(value or ''))


def _slices(numbers):
    return [numbers[start:start + SLICE] for start in range(0, len(numbers), SLICE)]


def _strings(values, name):
    """Ids as the caller gave them: strings, by Launchpad; numbers will do."""
    if not isinstance(values, list) or not all(isinstance(value, (str, int)) and not isinstance(value, bool)
                                               for value in values):
        raise xmlrpc.client.Fault(WRONG_ARGUMENTS, "%s is an array of ids." % name)
    return [str(value) for value in values]


def _ticket_number(given):
    """The number of the ticket that the caller means; `None` if it cannot be one."""
    number = int(given) if re.fullmatch('[0-9]{1,10}', str(given)) else 0
    return number if 0 < number <= xmlrpc.client.MAXINT else None


def _comment_id(number, when):
    """The id of a ticket's comment: the key under which Trac has it, which neither an edit nor a deletion changes."""
    return '%d:%d' % (number, when)


def _bug_number(link):
    """The number at the end of a link to the issuer's bug, which people can type, too; 0 if there is none."""
    found = re.fullmatch(r'(?:.*\D)?([0-9]{1,10})/?', (link or '').strip())
    number = int(found[1]) if found else 0
    return number if number <= xmlrpc.client.MAXINT else 0


class LaunchpadAdmin(Component):
    """The commands of `trac-admin` that prepare a Trac for an issuer, and say what is missing."""

    implements(IAdminCommandProvider)

    # IAdminCommandProvider methods

    def get_admin_commands(self):
        yield ('launchpad setup', '<auth_server> [base_url]',
               """Let an issuer of login tokens, such as Launchpad, log in and work here

               Sets [launchpad] auth_server and, if given, [trac] base_url, makes the custom field for links to the
               issuer's bugs, and gives the issuer's user the permissions %s. Restart Trac afterwards.
               """ % ', '.join(NEEDED), None, self._do_setup)
        yield ('launchpad check', '',
               """Say what an issuer of login tokens still lacks here

               Looks at settings and permissions; nobody is asked.
               """, None, self._do_check)

    def _do_setup(self, auth_server, base_url=None):
        login = LaunchpadLogin(self.env)
        try:
            verifier_of(auth_server, ca_file=login.ca_file)
        except ValueError as e:
            raise AdminCommandError(str(e)) from e
        if base_url and not _normal(base_url):
            raise AdminCommandError("base_url must be the public URL of this Trac, such as https://trac.example.org/project")
        self.config.set('launchpad', 'auth_server', auth_server)
        if base_url:
            self.config.set('trac', 'base_url', base_url)
        for name, value in FIELD_SETTINGS:
            if not self.config['ticket-custom'].contains(name):
                self.config.set('ticket-custom', name, value)
        self.config.save()
        tickets = TicketSystem(self.env)
        tickets.reset_ticket_fields()
        del tickets.custom_fields  # a cached property
        permissions = PermissionSystem(self.env)
        for action in self._missing_permissions():
            permissions.grant_permission(login.user, action)
        self._do_check()

    def _do_check(self):
        faults, advice = self._findings()
        for text in faults:
            printout("FAULT   " + text)
        for text in advice:
            printout("advice  " + text)
        if faults:
            raise AdminCommandError("An issuer cannot log in and work here yet.")
        printout("An issuer can log in as %s and work here." % LaunchpadLogin(self.env).user)

    def _missing_permissions(self):
        granted = PermissionSystem(self.env).get_user_permissions(LaunchpadLogin(self.env).user)
        return [action for action in NEEDED if action not in granted]

    def _findings(self):
        login, faults, advice = LaunchpadLogin(self.env), [], []
        try:
            issuer = login._issuer()
        except ConfigurationError as e:
            faults.append(to_unicode(e))
        else:
            if not issuer.is_protected:
                advice.append("[launchpad] auth_server is not https: whoever is on the way can log in here.")
            if not issuer.audience:
                advice.append("Set [trac] base_url to the public URL of this Trac, so that tokens for another bug tracker "
                              "are refused, and those for this one are not.")
            elif issuer.audience.startswith('https:') and not self.env.secure_cookies:
                advice.append("Set [trac] secure_cookies = true, so that sessions travel by https only.")
        if FIELD not in [field['name'] for field in TicketSystem(self.env).custom_fields]:
            faults.append("[ticket-custom] has no field %s for the links to the issuer's bugs." % FIELD)
        if LaunchpadRPC(self.env).bug_url.count('%s') != 1:
            faults.append("[launchpad] bug_url must have %s once, where the number of the bug goes.")
        faults += ["The user %s lacks the permission %s." % (login.user, action) for action in self._missing_permissions()]
        if not self.env.is_component_enabled(LoginModule) and not self.env.is_component_enabled('acct_mgr.web_ui.LoginModule'):
            faults.append("Nothing reads the session: enable trac.web.auth.LoginModule, or a plugin's replacement for it.")
        if 'TRAC_ADMIN' in PermissionSystem(self.env).get_user_permissions(login.user):
            advice.append("The user %s has TRAC_ADMIN. Give it no more than %s." % (login.user, ', '.join(NEEDED)))
        if self._is_a_person(login.user):
            advice.append("Somebody has a password for the name %s here. It is the issuer's now, and that password no longer "
                          "logs in. Delete the account, or set [launchpad] user to another name." % login.user)
        return faults, advice

    def _is_a_person(self, user):
        """Whether AccountManager, if there is one, has this account; the web server's own passwords are not known."""
        try:
            from acct_mgr.api import AccountManager
        except ImportError:
            return False
        return self.env.is_component_enabled(AccountManager) and bool(AccountManager(self.env).has_user(user))


def _send(req, status, text, kind='text/plain'):
    body = (text + '\n').encode('utf-8')
    req.send_header('Cache-Control', 'no-store')
    req.send_header('Content-Length', len(body))
    req.send(body, kind, status)  # raises RequestDone, as Trac's handlers do
