"""A bug tracker with a page for everybody, and one for those who logged in with a token. ASGI; it takes a server such as uvicorn.

    TRACKER_URL=http://127.0.0.1:8000/ TRACKER_ISSUER=http://127.0.0.1:8080 uvicorn tracker_asgi:application
"""

import os

from countersign_verifier import Verifier
from countersign_verifier.asgi import LoginMiddleware


async def tracker(scope, receive, send):
    if scope['type'] != 'http':
        raise RuntimeError('this tracker knows HTTP only')
    login = scope.get('countersign.login')
    status, text = 200, 'Bug 1: Microsoft has a majority market share.\n'
    if scope['path'] == '/private':
        status, text = (200, 'Bug 2, which only %s may see.\n' % login.user) if login else (403, 'Log in first.\n')
    await send({'type': 'http.response.start', 'status': status, 'headers': [(b'content-type', b'text/plain')]})
    await send({'type': 'http.response.body', 'body': text.encode()})


verifier = Verifier(os.environ.get('TRACKER_ISSUER', 'http://127.0.0.1:8080'),
                    audience=os.environ.get('TRACKER_URL', 'http://127.0.0.1:8000/'),
                    timeout=float(os.environ.get('TRACKER_TIMEOUT', '5')))
application = LoginMiddleware(tracker, verifier)
