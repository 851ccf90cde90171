"""The handshake: ask the issuer of a login token whether the token is its own and unused.

Exactly one answer is a yes, HTTP 200, and the issuer gives it once for each token. `Verifier.verify` returns only after that
answer, and raises an error otherwise. The rules are those of tests/verifiers/cases.json in Countersign's repository.
"""

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
