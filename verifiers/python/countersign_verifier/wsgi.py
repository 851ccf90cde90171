"""A place to log in at, around a WSGI application.

    application = LoginMiddleware(application, Verifier('https://launchpad.net', audience='https://bugs.example.org/'))

`GET {base path}/launchpad-auth/{token}` answers 200 and sets a session cookie if the issuer says yes, and 401 otherwise; to
`launchpad-auth/check`, by which Launchpad detects a tracker that it can log in to, always 401. Every other request goes to the
application, with a `Login` as `environ['countersign.login']` if its cookie is good.

Each request makes the tracker ask the issuer: if strangers can reach the path, limit the rate of requests in front of it.
"""

from http import HTTPStatus
from typing import Any, Callable, Dict, Iterable

from .handshake import Verifier, VerifyError
from .login import Logins

KEY = 'countersign.login'


class LoginMiddleware:
    """The arguments after `application` are those of `Logins`."""

    def __init__(self, application: Callable[..., Iterable[bytes]], verifier: Verifier, **settings: Any) -> None:
        self._application, self._logins = application, Logins(verifier, **settings)

    def __call__(self, environ: Dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        token = self._logins.token_in(environ.get('SCRIPT_NAME', '') + environ.get('PATH_INFO', ''))
        if token is not None:
            return self._log_in(environ, start_response, token)
        environ.pop(KEY, None)
        login = self._logins.find(environ.get('HTTP_COOKIE', ''))
        if login:
            environ[KEY] = login
        return self._application(environ, start_response)

    def _log_in(self, environ: Dict[str, Any], start_response: Callable[..., Any], token: str) -> Iterable[bytes]:
        def header(name: str) -> str:
            return str(environ.get('HTTP_' + name.upper().replace('-', '_'), ''))

        answer = self._logins.refuse_early(environ['REQUEST_METHOD'], header, token)
        if not answer:
            try:
                answer = self._logins.accept(self._logins.verifier.verify(token))
            except VerifyError as error:
                answer = self._logins.refuse(error)
        start_response('%d %s' % (answer.status, HTTPStatus(answer.status).phrase), answer.headers)
        return [answer.body]
