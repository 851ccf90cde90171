"""Log Launchpad, or any issuer of login tokens, in to Trac.

The issuer's worker asks for `GET {trac}/launchpad-auth/{token}`. Before it answers, Trac asks the issuer
at the URL *configured* in trac.ini, `POST https://issuer.example.org/token/{token}/+bugtracker-handshake`,
whether it made that token. HTTP 200 means yes, and happens once per token: the caller then gets an ordinary
Trac session as the configured user. Anything else means no, and the caller gets 401.

`Issuer` is the handshake and knows nothing of Trac: another tracker's plugin needs the same.
`LaunchpadLogin` is what Trac sees. README.md says how to install and configure it.
"""

import re
import secrets
import ssl
import time
from contextlib import closing
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from ipaddress import ip_address
from urllib.parse import urlencode, urlsplit

from trac.config import ConfigurationError, FloatOption, Option, PathOption
from trac.core import Component, implements
from trac.web.api import IRequestHandler
from trac.web.auth import LoginModule
from trac.web.main import FakeSession

__version__ = '0.1.0'

PATH = '/launchpad-auth/'

# Letters and digits only: whatever a caller sends, it cannot leave its place in the issuer's URL.
TOKEN = re.compile('[0-9A-Za-z]{1,4096}')

# The issuer, or a gateway in front of it, says that it could not answer.
NO_ANSWER = (502, 503, 504)

USED_UP = 'it has been used already, has expired or was revoked. Ask the issuer for a new one.'
REFUSALS = {
    401: USED_UP,
    410: USED_UP,
    403: 'it was issued for another bug tracker than this one.',
    404: 'it is not one of its tokens.',
    429: 'too many tokens from here have been refused lately. Try again later.',
}

AUTH_SERVER_HINT = ('Set it to the URL of the issuer\'s handshake, with %s where the token goes, such as '
                    'https://launchpad.net/token/%s/+bugtracker-handshake')


class Issuer:
    """The server that vouches for its tokens, as trac.ini describes it.

    `timeout` is in seconds, for connecting and then for each wait for a piece of the answer. A setting
    that cannot work raises `ValueError` with a sentence for the administrator.
    """

    def __init__(self, auth_server, audience='', timeout=5.0, ca_file='', proxy=''):
        if not auth_server:
            raise ValueError('auth_server is not set. ' + AUTH_SERVER_HINT)
        url = _split(auth_server, ('http', 'https'))
        if not url or auth_server.count('%s') != 1 or '%s' not in url.path:
            raise ValueError('auth_server is not the URL of a handshake. ' + AUTH_SERVER_HINT)
        if proxy and not _split(proxy, ('http',)):
            raise ValueError('proxy must be empty or look like http://proxy.example.org:3128')
        if not 0 < timeout <= 60:
            raise ValueError('timeout must be more than 0 and at most 60 seconds')

        self.auth_server, self.audience, self.timeout = auth_server, audience, timeout
        self.host = url.hostname
        self.proxy = urlsplit(proxy).netloc
        self.tls = None
        if url.scheme == 'https':
            try:
                # This context verifies the certificate and the host name.
                self.tls = ssl.create_default_context(cafile=ca_file or None)
            except OSError as e:
                raise ValueError('ca_file cannot be read as PEM certificates: %s' % e) from e
            self.tls.minimum_version = ssl.TLSVersion.TLSv1_2

    def redeem(self, token):
        """Ask the issuer to consume `token` and return the HTTP status of its answer: only 200 is a yes.

        `OSError` or `HTTPException`: there was no answer.
        """
        # The issuer may have consumed the token although its answer was lost. It answers the same key the same
        # way for a minute, so asking once more is safe. Anybody else who comes with this token has another key.
        key = secrets.token_hex(16)
        try:
            status = self._post(token, key)
            if status not in NO_ANSWER:
                return status
        except ssl.SSLCertVerificationError:
            raise  # somebody answered, but not the issuer
        except (OSError, HTTPException):
            pass
        return self._post(token, key)

    def _post(self, token, key):
        url = urlsplit(self.auth_server.replace('%s', token))
        # http.client follows no redirect and takes no proxy from the environment, which under CGI
        # a caller could set with a `Proxy:` header.
        connect = partial(HTTPSConnection, context=self.tls) if self.tls else HTTPConnection
        connection = connect(self.proxy or url.netloc, timeout=self.timeout)
        if self.proxy:
            connection.set_tunnel(url.netloc)
        with closing(connection):
            connection.request('POST', url.path + ('?' + url.query if url.query else ''),
                               body=urlencode({'audience': self.audience} if self.audience else {}),
                               headers={'Content-Type': 'application/x-www-form-urlencoded',
                                        'Idempotency-Key': key,
                                        'User-Agent': 'countersign-trac/' + __version__,
                                        'Connection': 'close'})
            # The status is the whole answer. The body is not read, so its size does not matter.
            with connection.getresponse() as response:
                return response.status


class Refused(Exception):
    """No session for this caller. The text says why; the caller sees it."""


class LaunchpadLogin(Component):
    """Lets an issuer of login tokens, such as Launchpad, log in as one configured user.

    It grants that user nothing: give it permissions with `trac-admin`.
    """

    implements(IRequestHandler)

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
        """Seconds to wait for the issuer; a lost answer is asked for once more. More than 0, at most 60.""")

    ca_file = PathOption('launchpad', 'ca_file', '',
        """PEM file with the certificate authorities to trust for `auth_server`, instead of the system's.
        A relative path starts at the directory of trac.ini.""")

    proxy = Option('launchpad', 'proxy', '',
        """HTTP proxy on the way to the issuer, such as `http://proxy.example.org:3128`. It must allow
        CONNECT. The proxy variables of the environment are ignored.""")

    def __init__(self):
        # Trac makes its components once per process: what is wrong is said before anybody tries to log in.
        try:
            issuer = self._issuer()
        except ConfigurationError as e:
            self.log.error("Nobody can log in by token: %s", e)
            return
        if not issuer.tls and not _is_loopback(issuer.host):
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
        except Refused as e:
            # Launchpad tells by this status, whatever the reason, that it met the plugin.
            req.send_header('WWW-Authenticate', 'LoginToken realm="launchpad-auth"')
            return _send(req, 401, str(e))
        return _send(req, 200, "Logged in as %s." % user)

    # Internal methods

    def _log_in(self, req, token):
        """Return the user's name, with the session cookie in `req`; or raise `Refused`."""
        if token == 'check':
            raise Refused("This Trac logs in whoever brings a login token in place of the word check.")
        if not TOKEN.fullmatch(token):
            raise Refused("That is not a login token: a token is 1 to 4096 letters and digits.")
        user = self.user.lower() if LoginModule(self.env).ignore_case else self.user
        if req.remote_user not in (None, '', 'anonymous', user):
            # Trac prefers what the web server says to a cookie, so a session would be another user's.
            raise Refused("The web server has already logged you in as somebody else. Come without a password.")
        self._redeem(token, req.remote_addr)
        self._start_session(req, user)
        return user

    def _redeem(self, token, remote_addr):
        # No message here may contain the token: until it is consumed, it is a password.
        try:
            issuer = self._issuer()
        except ConfigurationError as e:
            self.log.error("Refused a login by token from %s: %s", remote_addr, e)
            raise Refused("Login by token is not configured here. Its administrator finds the reason in the log "
                          "of this Trac.") from e
        try:
            status = issuer.redeem(token)
        except (OSError, HTTPException) as e:
            # An HTTPException can quote what the other side sent, and that may be the token.
            why = e if isinstance(e, OSError) else type(e).__name__
            self.log.error("Refused a login by token from %s: no answer from the issuer %s: %s",
                           remote_addr, issuer.host, why)
            raise Refused("The issuer could not be reached. Try again later.") from e
        if status == 200:
            self.log.info("Login by token from %s, confirmed by %s", remote_addr, issuer.host)
            return
        self.log.warning("Refused a login by token from %s: the issuer %s answered HTTP %d to the audience %r",
                         remote_addr, issuer.host, status, issuer.audience)
        if status in NO_ANSWER:
            raise Refused("The issuer cannot answer just now (HTTP %d). Try again later." % status)
        why = REFUSALS.get(status, 'HTTP %d is neither a yes nor a known no. [launchpad] auth_server may name the '
                                   'wrong URL.' % status)
        raise Refused("The issuer refused this token: " + why)

    def _start_session(self, req, user):
        """Add a session to those of `user`, as Trac's own LoginModule would, and to nobody else's."""
        login = LoginModule(self.env)
        cookie = secrets.token_hex(16)
        now = int(time.time())
        with self.env.db_transaction as db:
            # Trac ends sessions after ten days, but only when somebody logs in by its own form.
            db("DELETE FROM auth_cookie WHERE name=%s AND time<%s", (user, now - 10 * 86400))
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
            return Issuer(self.auth_server, self.audience or self.env.base_url, self.timeout,
                          self.ca_file, self.proxy)
        except ValueError as e:
            raise ConfigurationError("[launchpad] %s" % e) from e


def _split(url, schemes):
    """Split `url`; `None` if it is not one to connect to, or if it contains a password."""
    try:
        parts = urlsplit(url)
        parts.hostname.encode('idna')
        good = parts.hostname and parts.port != 0 and '@' not in parts.netloc
    except (ValueError, AttributeError):  # a host or a port that cannot be; no host at all
        return None
    return parts if good and parts.scheme in schemes and re.fullmatch('[!-~]+', url) else None


def _is_loopback(host):
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == 'localhost' or host.endswith('.localhost')


def _send(req, status, text):
    body = (text + '\n').encode('utf-8')
    req.send_header('Cache-Control', 'no-store')
    req.send_header('Content-Length', len(body))
    req.send(body, 'text/plain', status)  # raises RequestDone, as Trac's handlers do
