"""For bug trackers in Python: lets an issuer of login tokens, such as Launchpad, log in without a shared password.

The issuer's worker brings a token that works once. The tracker asks the issuer, at the URL that it was *configured* with, whether
the token is genuine: HTTP 200 means yes, and uses the token up. The worker then gets a session cookie.

- `Verifier` is the handshake alone, for a tracker that has sessions of its own.
- `countersign_verifier.wsgi.LoginMiddleware` and `countersign_verifier.asgi.LoginMiddleware` are a login path and a signed session
  cookie around a whole application.

README.md has examples.
"""

from .handshake import (
    DEFAULT_TIMEOUT,
    MAX_TIMEOUT,
    MalformedToken,
    Refused,
    SetupError,
    UnexpectedAnswer,
    Unreachable,
    Verified,
    Verifier,
    VerifyError,
)
from .login import Login, Logins

__version__ = '0.1.0'

__all__ = [
    'DEFAULT_TIMEOUT',
    'MAX_TIMEOUT',
    'Login',
    'Logins',
    'MalformedToken',
    'Refused',
    'SetupError',
    'UnexpectedAnswer',
    'Unreachable',
    'Verified',
    'Verifier',
    'VerifyError',
]
