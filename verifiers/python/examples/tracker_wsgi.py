"""A bug tracker with a page for everybody, and one for those who logged in with a token. WSGI.

    TRACKER_URL=http://127.0.0.1:8000/ TRACKER_ISSUER=http://127.0.0.1:8080 python tracker_wsgi.py
"""

import os
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIServer, make_server

from countersign_verifier import Verifier
from countersign_verifier.wsgi import LoginMiddleware


def tracker(environ, start_response):
    login = environ.get('countersign.login')
    if environ['PATH_INFO'] == '/private' and not login:
        start_response('403 Forbidden', [('Content-Type', 'text/plain')])
        return [b'Log in first.\n']
    start_response('200 OK', [('Content-Type', 'text/plain')])
    if environ['PATH_INFO'] == '/private':
        return [b'Bug 2, which only %s may see.\n' % login.user.encode()]
    return [b'Bug 1: Microsoft has a majority market share.\n']


verifier = Verifier(os.environ.get('TRACKER_ISSUER', 'http://127.0.0.1:8080'),
                    audience=os.environ.get('TRACKER_URL', 'http://127.0.0.1:8000/'),
                    timeout=float(os.environ.get('TRACKER_TIMEOUT', '5')))
application = LoginMiddleware(tracker, verifier)


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


if __name__ == '__main__':
    port = int(os.environ.get('TRACKER_PORT', '8000'))
    with make_server('127.0.0.1', port, application, server_class=Server) as server:
        print('tracker http://127.0.0.1:%d/' % server.server_port, flush=True)
        server.serve_forever()
