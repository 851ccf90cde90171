# A Trac whose reverse proxy says who is logged in, for any WSGI server. docs/gate-trac.md says what belongs to it.

from trac.web.main import dispatch_request


def application(environ, start_response):
    environ["trac.env_path"] = "/srv/trac"
    # Only the proxy's header counts: a name that came on another way is ignored.
    environ.pop("REMOTE_USER", None)
    if user := environ.get("HTTP_X_REMOTE_USER"):
        # Trac's login gives a cookie of its own, which outlives the gate's session and which no rule of the gate binds.
        if environ.get("PATH_INFO", "").startswith("/login"):
            start_response("403 Forbidden", [("Content-Type", "text/plain")])
            return [b"The gate has logged you in; there is no other login for this user.\n"]
        environ["REMOTE_USER"] = user
    return dispatch_request(environ, start_response)
