"""The login path and the sessions, of the WSGI and of the ASGI middleware alike."""

import asyncio
import io
import json
import logging
import unittest
from base64 import urlsafe_b64decode
from contextlib import contextmanager
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

from countersign_verifier import SetupError, Verifier, asgi, wsgi
from stub_issuer import StubIssuer, http

BASE_URL = 'https://bugs.example.org/trac/'
START = 1_800_000_000
SECRET = b'7' * 32


def json_answer(**document):
    return http(200, 'Content-Type: application/json\r\n', json.dumps(document))


class Wsgi:
    def __init__(self, verifier, **settings):
        self.middleware = validator(wsgi.LoginMiddleware(validator(self.application), verifier, **settings))

    @staticmethod
    def application(environ, start_response):
        start_response('200 OK', [('Content-Type', 'text/plain')])
        return [repr(environ.get('countersign.login')).encode()]

    def ask(self, path, method='GET', mounted='', **headers):
        environ = {'REQUEST_METHOD': method, 'PATH_INFO': path, 'SCRIPT_NAME': mounted, 'wsgi.input': io.BytesIO(), 'QUERY_STRING': '',
                   **{'HTTP_' + name.upper(): value for name, value in headers.items()}}
        setup_testing_defaults(environ)
        environ['HTTP_HOST'] = 'victim.example.org'
        started = []
        answer = self.middleware(environ, lambda status, headers, exc_info=None: started.append((status, headers)))
        body = b''.join(answer)
        answer.close()
        [(status, headers)] = started
        return Answer(int(status.split()[0]), headers, body)


class Asgi:
    def __init__(self, verifier, **settings):
        self.middleware = asgi.LoginMiddleware(self.application, verifier, **settings)

    @staticmethod
    async def application(scope, receive, send):
        await send({'type': 'http.response.start', 'status': 200, 'headers': []})
        await send({'type': 'http.response.body', 'body': repr(scope.get('countersign.login')).encode()})

    def ask(self, path, method='GET', mounted='', **headers):
        sent = []

        async def send(message):
            sent.append(message)

        scope = {'type': 'http', 'method': method, 'path': mounted + path, 'root_path': mounted, 'headers': [
            (b'host', b'victim.example.org'),
            *((name.replace('_', '-').encode(), value.encode('latin-1')) for name, value in headers.items())]}
        asyncio.run(self.middleware(scope, None, send))
        start, body = sent
        return Answer(start['status'], [(name.decode(), value.decode()) for name, value in start['headers']], body['body'])


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.text = status, body.decode()
        self.headers = {name.lower(): value for name, value in headers}
        self.cookie, _, self.attributes = self.headers.get('set-cookie', '').partition('; ')


class LoginCases:
    """For each kind of middleware."""

    @contextmanager
    def tracker(self, *answers, base_url=BASE_URL, **settings):
        """A tracker, with an issuer of its own."""
        with StubIssuer(*answers) as stub, self.assertLogs('countersign_verifier') as log:
            verifier = Verifier(stub.url, audience=base_url, timeout=20)
            tracker = self.kind(verifier, **{'clock': lambda: START, 'secret': SECRET, **settings})
            tracker.stub, tracker.verifier = stub, verifier
            yield tracker
            logging.getLogger('countersign_verifier').warning('so that there is a line')
        self.assertNotIn('cs1abc', '\n'.join(log.output))

    def test_good_token_opens_a_session(self):
        with self.tracker(json_answer(issuer='Läunchpad')) as tracker:
            answer = tracker.ask('/trac/launchpad-auth/cs1abc')
            self.assertEqual((answer.status, answer.text), (200, 'Logged in as launchpad.\n'))
            self.assertEqual(answer.headers['cache-control'], 'no-store')
            self.assertTrue(answer.cookie.startswith('launchpad_session='))
            self.assertEqual(answer.attributes, 'HttpOnly; SameSite=Lax; Secure; Path=/trac; Max-Age=86400')
            seen = tracker.ask('/trac/bugs', cookie=answer.cookie).text
            self.assertEqual(seen, "Login(user='launchpad', issuer='Läunchpad', since=datetime.datetime(2027, 1, 15, 8, 0, "
                                   'tzinfo=datetime.timezone.utc))')
            self.assertEqual(tracker.ask('/trac/bugs').text, 'None')
            [question] = tracker.stub.requests
            self.assertEqual(question.form, {'audience': [BASE_URL]})

    def test_every_login_has_a_session_of_its_own(self):
        with self.tracker(200) as tracker:
            cookies = {tracker.ask('/trac/launchpad-auth/t', cookie='launchpad_session=mine').cookie for _ in range(3)}
            self.assertEqual(len(cookies), 3)
            self.assertFalse(any('mine' in cookie for cookie in cookies))

    def test_cookie_follows_the_base_url(self):
        for base_url, path, attributes in [
            ('https://b.example', '/launchpad-auth/t', 'HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age=86400'),
            ('http://b.example/a/b/', '/a/b/launchpad-auth/t', 'HttpOnly; SameSite=Lax; Path=/a/b; Max-Age=86400'),
            (None, '/launchpad-auth/t', 'HttpOnly; SameSite=Lax; Path=/; Max-Age=86400'),
        ]:
            with self.tracker(200, base_url=base_url) as tracker:
                self.assertEqual(tracker.ask(path).attributes, attributes)

    def test_everything_has_the_name_it_is_given(self):
        with self.tracker(200, user='bug-robot', login_path='/door', cookie_name='s', lifetime=60) as tracker:
            answer = tracker.ask('/door/t')
            self.assertTrue(answer.cookie.startswith('s='))
            self.assertTrue(answer.attributes.endswith('Max-Age=60'))
            self.assertIn("user='bug-robot'", tracker.ask('/', cookie=answer.cookie).text)

    def test_application_that_is_mounted_finds_its_path(self):
        with self.tracker(200) as tracker:
            self.assertEqual(tracker.ask('/launchpad-auth/t', mounted='/trac').status, 200)
            self.assertEqual(tracker.ask('/launchpad-auth/t', mounted='/other').text, 'None')

    def test_check_is_401_and_asks_nobody(self):
        with self.tracker(200) as tracker:
            answer = tracker.ask('/trac/launchpad-auth/check')
            self.assertEqual(answer.status, 401)
            self.assertIn('www-authenticate', answer.headers)
            self.assertEqual(tracker.stub.connections, 0)

    def test_refusal_says_why_and_opens_nothing(self):
        for status, sentence in [(401, 'was used already'), (410, 'was used already'), (403, 'another bug tracker'),
                                 (404, 'not one of its own'), (429, 'too many'), (500, 'administrator'),
                                 (503, 'could not be asked')]:
            with self.tracker(status) as tracker:
                answer = tracker.ask('/trac/launchpad-auth/cs1abc')
                self.assertEqual(answer.status, 401)
                self.assertIn(sentence, answer.text)
                self.assertNotIn('cs1abc', answer.text)
                self.assertNotIn('set-cookie', answer.headers)
                self.assertIn('www-authenticate', answer.headers)

    def test_only_get_uses_a_token_up(self):
        with self.tracker(200) as tracker:
            for method in ['HEAD', 'POST', 'PUT', 'DELETE', 'OPTIONS']:
                for last in ['cs1abc', 'check']:
                    answer = tracker.ask('/trac/launchpad-auth/' + last, method)
                    self.assertEqual((answer.status, answer.headers['allow']), (405, 'GET'))
                    self.assertEqual(bool(answer.text), method != 'HEAD')
            self.assertEqual(tracker.stub.connections, 0)

    def test_prefetch_uses_no_token_up(self):
        with self.tracker(200) as tracker:
            for name, value in [('sec_purpose', 'prefetch;prerender'), ('purpose', 'Prefetch'), ('x_purpose', 'preview'),
                                ('x_moz', 'prefetch')]:
                answer = tracker.ask('/trac/launchpad-auth/cs1abc', **{name: value})
                self.assertEqual(answer.status, 401)
            self.assertEqual(tracker.stub.connections, 0)

    def test_what_is_no_token_reaches_nobody(self):
        with self.tracker(200) as tracker:
            for path in ['', '/', '/a/b', '/../+index', '/a%2Fb', '/a.b', '/a\n', '/\xe9']:
                answer = tracker.ask('/trac/launchpad-auth' + path)
                self.assertEqual(answer.status, 401, path)
                self.assertIn('not a login token', answer.text)
            for path in ['/launchpad-auth/t', '/trac/launchpad-authx/t', '/trac/launchpad-aut', '/trac']:
                self.assertEqual(tracker.ask(path).text, 'None', path)
            self.assertEqual(tracker.stub.connections, 0)

    def test_cookie_that_was_changed_is_nobodys(self):
        with self.tracker(200) as tracker:
            cookie = tracker.ask('/trac/launchpad-auth/t').cookie
            name, _, value = cookie.partition('=')
            for at in range(len(value)):
                changed = value[:at] + ('A' if value[at] != 'A' else 'B') + value[at + 1:]
                self.assertEqual(tracker.ask('/', cookie='%s=%s' % (name, changed)).text, 'None', at)
            for other in ['', value[:-1], value + 'A', value[:64], value[:65], '.', '..', 'A' * 100, 'é.é', '0' * 5000, value[65:]]:
                self.assertEqual(tracker.ask('/', cookie='%s=%s' % (name, other)).text, 'None', other)
            self.assertEqual(tracker.ask('/', cookie='other=' + value).text, 'None')
            among_others = 'a=b; %s=stale; %s; c=d' % (name, cookie)
            self.assertIn('launchpad', tracker.ask('/', cookie=among_others).text)

    def test_session_ends_in_time(self):
        now = [START]
        with self.tracker(200, lifetime=100, clock=lambda: now[0]) as tracker:
            now[0] = START
            cookie = tracker.ask('/trac/launchpad-auth/t').cookie
            for later, lives in [(0, True), (99, True), (100, False), (1_000_000, False)]:
                now[0] = START + later
                self.assertEqual(tracker.ask('/', cookie=cookie).text != 'None', lives, later)

    def test_session_belongs_to_one_tracker_one_user_and_one_secret(self):
        with self.tracker(200) as tracker:
            kind, cookie = type(tracker), tracker.ask('/trac/launchpad-auth/t').cookie
            elsewhere = Verifier(tracker.stub.url, audience='https://bugs.example.org/other')
            for what, other, known in [
                ('another process', kind(tracker.verifier, secret=SECRET, clock=lambda: START), True),
                ('another tracker', kind(elsewhere, secret=SECRET, clock=lambda: START), False),
                ('another user', kind(tracker.verifier, secret=SECRET, clock=lambda: START, user='root'), False),
                ('another secret', kind(tracker.verifier, secret=b'8' * 32, clock=lambda: START), False),
                ('a secret of its own', kind(tracker.verifier, clock=lambda: START), False),
            ]:
                self.assertEqual(other.ask('/', cookie=cookie).text != 'None', known, what)

    def test_long_name_of_an_issuer_is_left_out(self):
        with self.tracker(json_answer(issuer='x' * 5000)) as tracker:
            cookie = tracker.ask('/trac/launchpad-auth/t').cookie
            self.assertLess(len(cookie), 1000)
            self.assertIn('issuer=None', tracker.ask('/', cookie=cookie).text)

    def test_cookie_has_no_token_in_it(self):
        with self.tracker(200) as tracker:
            _, _, content = tracker.ask('/trac/launchpad-auth/cs1abc').cookie.partition('.')
            self.assertNotIn(b'cs1abc', urlsafe_b64decode(content + '=='))

    def test_settings_that_cannot_work_are_refused(self):
        verifier = Verifier('http://127.0.0.1:9', audience=BASE_URL)
        for setting, wrong in [
            ('user', ['', 'a\nb', 'u' * 257]), ('cookie_name', ['', 'a b', 'a;b', 'a=b', 'é']),
            ('login_path', ['', '/', 'login', '/login/', '/a b', '/a?b', '/é']), ('lifetime', [0, -1, 400 * 86400 + 1]),
            ('secret', [b'', b'7' * 31, '7' * 32]),
        ]:
            for value in wrong:
                for middleware in (wsgi.LoginMiddleware, asgi.LoginMiddleware):
                    with self.assertRaises(SetupError) as raised:
                        middleware(None, verifier, **{setting: value})
                    self.assertEqual(raised.exception.setting, setting, value)


class WsgiTest(LoginCases, unittest.TestCase):
    kind = Wsgi


class AsgiTest(LoginCases, unittest.TestCase):
    kind = Asgi

    def test_other_scopes_go_to_the_application(self):
        seen = []

        async def application(scope, receive, send):
            seen.append(scope)

        middleware = asgi.LoginMiddleware(application, Verifier('http://127.0.0.1:9', audience=BASE_URL))
        asyncio.run(middleware({'type': 'lifespan'}, None, None))
        asyncio.run(middleware({'type': 'websocket', 'path': '/trac/launchpad-auth/x', 'headers': [],
                                'countersign.login': 'forged'}, None, None))
        self.assertEqual([scope['type'] for scope in seen], ['lifespan', 'websocket'])
        self.assertNotIn('countersign.login', seen[1])


if __name__ == '__main__':
    unittest.main()
