# A Trac whose reverse proxy says who is logged in, for any WSGI server. docs/gate.md says what belongs to it.

from trac.web.main import dispatch_request


def application(environ, start_response):
    environ["trac.env_path"] = "/srv/trac"
    # The proxy's word, or nobody's: a name that came on another way does not count.
    environ.pop("REMOTE_USER", None)
    if user := environ.get("HTTP_X_REMOTE_USER"):
        environ["REMOTE_USER"] = user
    return dispatch_request(environ, start_response)
