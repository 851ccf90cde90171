"""A Trac environment in memory, and requests that go through Trac's own dispatcher."""

import io

import pytest
from trac.core import ComponentMeta
from trac.test import EnvironmentStub
from trac.web.api import RequestDone
from trac.web.main import RequestDispatcher, RequestWithSession

BASE_URL = 'https://trac.example.org/project'


@pytest.fixture
def make_env():
    """Make environments with the plugin enabled and the given options of `[launchpad]` and `[trac]`."""
    envs = []

    def make(auth_server='', trac=(), **launchpad):
        env = EnvironmentStub(default_data=True, enable=['trac.*', 'countersign_trac.*'])
        env.config.set('trac', 'base_url', BASE_URL)
        env.config.set('launchpad', 'auth_server', auth_server)
        for name, value in launchpad.items():
            env.config.set('launchpad', name, value)
        for name, value in dict(trac).items():
            env.config.set('trac', name, value)
        envs.append(env)
        return env

    yield make
    for env in envs:
        env.reset_db()


@pytest.fixture
def plugins():
    """Enable component classes for one test only."""
    registered = []
    yield registered.append
    for component in registered:
        ComponentMeta.deregister(component)


class Response:
    def __init__(self, status, headers, text):
        self.status, self.text = int(status.split()[0]), text
        self.headers = {}
        for name, value in headers:
            seen = self.headers.get(name.lower())
            self.headers[name.lower()] = value if seen is None else seen + ', ' + value
        self.cookies = [value for name, value in headers if name == 'Set-Cookie']

    @property
    def session(self):
        """The value of the session cookie that this answer sets, `None` if it sets none or deletes it."""
        for cookie in self.cookies:
            name, _, value = cookie.partition(';')[0].partition('=')
            if name == 'trac_auth' and value.strip('"'):
                return value
        return None


def request(env, path, method='GET', cookie='', base_path='/project', body=b'', **environ):
    """One request as a WSGI server would hand it to Trac."""
    if body:
        environ = {'wsgi.input': io.BytesIO(body), 'CONTENT_LENGTH': str(len(body)), **environ}
    req, answered = _request(env, path, method, cookie, base_path, environ)
    try:
        RequestDispatcher(env).dispatch(req)
    except RequestDone:
        pass
    return answered()


def who(env, session, **environ):
    """The user that Trac takes the holder of this session cookie for."""
    req, _ = _request(env, '/', 'GET', 'trac_auth=%s' % session, '/project', environ)
    return req.authname


def auth_cookies(env):
    """What Trac has on record: pairs of a user and a session cookie."""
    return env.db_query("SELECT name, cookie FROM auth_cookie ORDER BY time, name")


def log_of_the_plugin(env, level=None):
    return [record.getMessage() for record in env.log.handlers[0].buffer
            if record.module == 'countersign_trac' and level in (None, record.levelname)]


def _request(env, path, method, cookie, base_path, environ):
    started, body = [], io.BytesIO()

    def start_response(status, headers, exc_info=None):
        started.append((status, headers))
        return body.write

    req = RequestWithSession({
        'wsgi.url_scheme': 'https', 'wsgi.input': io.BytesIO(), 'REQUEST_METHOD': method,
        'SERVER_NAME': 'trac.example.org', 'SERVER_PORT': '443', 'SCRIPT_NAME': base_path, 'PATH_INFO': path,
        'REMOTE_ADDR': '192.0.2.1', 'HTTP_HOST': 'trac.example.org', 'HTTP_COOKIE': cookie, **environ,
    }, start_response)
    RequestDispatcher(env).set_default_callbacks(req)
    return req, lambda: Response(*started[0], body.getvalue().decode('utf-8'))
