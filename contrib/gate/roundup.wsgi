# A Roundup whose reverse proxy says who is logged in, for any WSGI server. docs/gate-roundup.md says what belongs to it.
#
# Roundup itself reads the header: [web] http_auth_header = HTTP_X_REMOTE_USER in its config.ini.

from roundup.cgi.wsgi_handler import RequestDispatcher

application = RequestDispatcher("/srv/roundup")
