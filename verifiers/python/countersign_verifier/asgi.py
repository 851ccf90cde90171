"""A place to log in at, around an ASGI application.

    application = LoginMiddleware(application, Verifier('https://launchpad.net', audience='https://bugs.example.org/'))

`GET {base path}/launchpad-auth/{token}` answers 200 and sets a session cookie if the issuer says yes, and 401 otherwise; to
`launchpad-auth/check`, by which Launchpad detects a tracker that it can log in to, always 401. Every other request, of WebSockets
too, goes to the application, with a `Login` as `scope['countersign.login']` if its cookie is good.

Each request makes the tracker ask the issuer: if strangers can reach the path, limit the rate of requests in front of it.
"""

from typing import Any, Awaitable, Callable, Dict

from .handshake import Verifier, VerifyError
from .login import Answer, Logins

KEY = 'countersign.login'

Scope = Dict[str, Any]
Receive = Callable[[], Awaitable[Dict[str, Any]]]
Send = Callable[[Dict[str, Any]], Awaitable[None]]


class LoginMiddleware:
    """The arguments after `application` are those of `Logins`."""

    def __init__(self, application: Callable[[Scope, Receive, Send], Awaitable[None]], verifier: Verifier,
                 **settings: Any) -> None:
        self._application, self._logins = application, Logins(verifier, **settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope['type'] not in ('http', 'websocket'):
            return await self._application(scope, receive, send)
        # Some servers have the root path in the path, as the specification says, and some do not.
        path, root = scope['path'], scope.get('root_path', '').rstrip('/')
        token = self._logins.token_in(path if path == root or path.startswith(root + '/') else root + path)
        if token is not None and scope['type'] == 'http':
            return await self._log_in(scope, send, token)
        scope = {name: value for name, value in scope.items() if name != KEY}
        login = self._logins.find(_header(scope, 'cookie', '; '))
        if login:
            scope[KEY] = login
        await self._application(scope, receive, send)

    async def _log_in(self, scope: Scope, send: Send, token: str) -> None:
        answer = self._logins.refuse_early(scope['method'], lambda name: _header(scope, name, ', '), token)
        if not answer:
            answer = await self._ask(token)
        await send({'type': 'http.response.start', 'status': answer.status,
                    'headers': [(name.lower().encode('ascii'), value.encode('latin-1')) for name, value in answer.headers]})
        await send({'type': 'http.response.body', 'body': answer.body})

    async def _ask(self, token: str) -> Answer:
        try:
            return self._logins.accept(await self._logins.verifier.verify_async(token))
        except VerifyError as error:
            return self._logins.refuse(error)


def _header(scope: Scope, name: str, between: str) -> str:
    return between.join(value.decode('latin-1') for key, value in scope['headers'] if key.decode('latin-1').lower() == name)
