"""What a caller gets from Trac: a session of the configured user, or a 401 that says why not."""

import re
import time

import pytest
import trac.about  # noqa: F401, the page that everybody may see
from trac.core import Component, ComponentMeta, implements
from trac.test import MockRequest
from trac.web.api import HTTPBadRequest, IRequestFilter

from conftest import BASE_URL, auth_cookies, log_of_the_plugin, request, who
from countersign_trac import LaunchpadLogin
from stub_issuer import StubIssuer, cut, http

TOKEN = 'cs1abcdefghijklmnopqrstuvwxyz234567'
LOGIN = '/launchpad-auth/' + TOKEN


def assert_refused(env, response, sentence):
    assert response.status == 401
    assert sentence in response.text
    assert response.headers['content-type'] == 'text/plain;charset=utf-8'
    assert response.headers['www-authenticate'] == 'LoginToken realm="launchpad-auth"'
    assert 'no-store' in response.headers['cache-control']
    assert response.cookies == []
    assert auth_cookies(env) == []


class TestLogin:
    def test_a_confirmed_token_opens_a_session(self, make_env):
        with StubIssuer(200) as stub:
            env = make_env(stub.url)
            response = request(env, LOGIN)
        assert response.status == 200
        assert response.text == 'Logged in as launchpad.\n'
        assert response.headers['content-type'] == 'text/plain;charset=utf-8'
        assert response.headers['content-length'] == str(len(response.text))
        assert auth_cookies(env) == [('launchpad', response.session)]
        assert who(env, response.session) == 'launchpad'
        [asked] = stub.requests
        assert asked.target == '/token/%s/+bugtracker-handshake' % TOKEN

    def test_the_answer_has_one_cookie_and_is_not_cached(self, make_env):
        with StubIssuer(200) as stub:
            response = request(make_env(stub.url), LOGIN)
        assert 'no-store' in response.headers['cache-control']
        assert response.cookies == ['trac_auth=%s; HttpOnly; Path=/project; SameSite=Strict' % response.session]
        assert re.fullmatch('launchpad-[0-9a-f]{32}', response.session)

    def test_cookie_settings_of_trac(self, make_env):
        with StubIssuer(200) as stub:
            env = make_env(stub.url, trac={
                'auth_cookie_path': '/shared', 'auth_cookie_domain': '.example.org', 'auth_cookie_lifetime': '3600',
                'secure_cookies': 'true'})
            [cookie] = request(env, LOGIN).cookies
        attributes = dict(part.strip().partition('=')[::2] for part in cookie.split(';')[1:])
        expires = attributes.pop('expires')
        assert attributes == {'Path': '/shared', 'Domain': '.example.org', 'Secure': '', 'HttpOnly': '',
                              'SameSite': 'Strict'}
        assert time.strptime(expires, '%a, %d %b %Y %H:%M:%S GMT') > time.gmtime()

    def test_a_trac_at_the_root(self, make_env):
        with StubIssuer(200) as stub:
            [cookie] = request(make_env(stub.url), LOGIN, base_path='').cookies
        assert '; Path=/;' in cookie

    def test_the_user_is_configured(self, make_env):
        with StubIssuer(200) as stub:
            env = make_env(stub.url, user='bug-robot')
            response = request(env, LOGIN)
        assert response.text == 'Logged in as bug-robot.\n'
        assert who(env, response.session) == 'bug-robot'

    def test_ignore_auth_case(self, make_env):
        with StubIssuer(200) as stub:
            env = make_env(stub.url, user='Launchpad', trac={'ignore_auth_case': 'true'})
            response = request(env, LOGIN)
        assert auth_cookies(env) == [('launchpad', response.session)]

    def test_check_auth_ip(self, make_env):
        with StubIssuer(200) as stub:
            env = make_env(stub.url, trac={'check_auth_ip': 'true'})
            session = request(env, LOGIN).session
        assert who(env, session) == 'launchpad'
        assert who(env, session, REMOTE_ADDR='192.0.2.2') == 'anonymous'

    def test_logins_do_not_disturb_each_other(self, make_env):
        with StubIssuer(200) as stub:
            env = make_env(stub.url)
            first, second = request(env, LOGIN).session, request(env, LOGIN).session
        assert first != second
        assert who(env, first) == who(env, second) == 'launchpad'
        assert len(set(stub.keys)) == 2

    def test_it_grants_nothing(self, make_env):
        with StubIssuer(200) as stub:
            env = make_env(stub.url)
            before = env.db_query("SELECT username, action FROM permission")
            request(env, LOGIN)
        assert env.db_query("SELECT username, action FROM permission") == before

    def test_only_old_sessions_of_the_same_user_are_removed(self, make_env):
        with StubIssuer(200) as stub:
            env = make_env(stub.url)
            day = 86400
            now = int(time.time())
            with env.db_transaction as db:
                db.executemany("INSERT INTO auth_cookie (cookie, name, ipnr, time) VALUES (%s, %s, '', %s)",
                               [('a', 'launchpad', now - 11 * day), ('b', 'launchpad', now - 9 * day),
                                ('c', 'alice', now - 20 * day)])
            session = request(env, LOGIN).session
        assert sorted(auth_cookies(env)) == sorted([('launchpad', session), ('launchpad', 'b'), ('alice', 'c')])

    def test_a_lost_answer_still_logs_in(self, make_env):
        with StubIssuer(cut, 200) as stub:
            env = make_env(stub.url)
            assert request(env, LOGIN).status == 200
        assert len(auth_cookies(env)) == 1


class TestCookiesOfTheCaller:
    """Whatever session the request carries, the answer is a new one and the old one is as it was."""

    @pytest.fixture
    def early_reader(self):
        """A plugin that asks who the caller is, and for their session, before the login."""
        class EarlyReader(Component):
            implements(IRequestFilter)

            def pre_process_request(self, req, handler):
                self.seen = req.is_authenticated, dict(req.session)
                return handler

            def post_process_request(self, req, template, data, metadata):
                return template, data, metadata

        yield EarlyReader
        ComponentMeta.deregister(EarlyReader)

    @pytest.fixture(params=['alone', 'after another plugin'])
    def env(self, request, make_env, issuer):
        env = make_env(issuer.url)
        if request.param == 'after another plugin':
            env.enable_component(request.getfixturevalue('early_reader'))
        return env

    @pytest.fixture
    def issuer(self):
        with StubIssuer(200) as stub:
            yield stub

    def test_a_stale_cookie_does_not_delete_the_new_one(self, env):
        response = request(env, LOGIN, cookie='trac_auth=stale')
        assert response.cookies == ['trac_auth=%s; HttpOnly; Path=/project; SameSite=Strict' % response.session]
        assert who(env, response.session) == 'launchpad'

    def test_an_earlier_session_is_not_reused(self, env):
        first = request(env, LOGIN).session
        second = request(env, LOGIN, cookie='trac_auth=%s' % first).session
        assert second not in (None, first)

    def test_a_cookie_of_another_user(self, env):
        env.db_transaction("INSERT INTO auth_cookie (cookie, name, ipnr, time) VALUES ('hers', 'alice', '', %s)",
                           (int(time.time()),))
        response = request(env, LOGIN, cookie='trac_auth=hers')
        assert who(env, response.session) == 'launchpad'
        assert who(env, 'hers') == 'alice'

    def test_an_anonymous_session_is_not_taken_over(self, env):
        with env.db_transaction as db:
            db("INSERT INTO session (sid, authenticated, last_visit) VALUES ('mine', 0, %s)", (int(time.time()),))
            db("INSERT INTO session_attribute (sid, authenticated, name, value) "
               "VALUES ('mine', 0, 'email', 'eve@example.org')")
        response = request(env, LOGIN, cookie='trac_session=mine')
        assert response.status == 200
        assert env.db_query("SELECT sid, authenticated FROM session") == [('mine', 0)]
        assert len(response.cookies) == 1


class TestRefusals:
    @pytest.mark.parametrize('answer, sentence', [
        (401, 'The issuer refused this token: it has been used already, has expired or was revoked.'),
        (410, 'The issuer refused this token: it has been used already, has expired or was revoked.'),
        (403, 'The issuer refused this token: it was issued for another bug tracker than this one.'),
        (404, 'The issuer refused this token: it is not one of its tokens.'),
        (429, 'The issuer refused this token: too many tokens from here have been refused lately.'),
        (204, 'HTTP 204 is neither a yes nor a known no'),
        (500, 'HTTP 500 is neither a yes nor a known no'),
        (http(302, 'Location: https://trac.example.org/\r\n'), 'HTTP 302 is neither a yes nor a known no'),
        (http(200, 'Content-Type: application/json\r\n', '{"audience": "https://other.example.org/"}'),
         "The issuer's answer was not understood: it is for another bug tracker"),
        (503, 'The issuer cannot answer just now (HTTP 503). Try again later.'),
        (cut, 'The issuer could not be reached. Try again later.'),
        (b'garbage\r\n\r\n', 'The issuer could not be reached. Try again later.'),
    ])
    def test_anything_but_200(self, make_env, answer, sentence):
        with StubIssuer(answer) as stub:
            env = make_env(stub.url)
            assert_refused(env, request(env, LOGIN), sentence)
        assert stub.requests

    def test_check_is_how_launchpad_finds_the_plugin(self, make_env):
        with StubIssuer(200) as stub:
            env = make_env(stub.url)
            assert_refused(env, request(env, '/launchpad-auth/check'), 'This Trac logs in whoever brings a login token')
            assert_refused(make_env(''), request(env, '/launchpad-auth/check'), 'This Trac logs in')
        assert stub.requests == []

    @pytest.mark.parametrize('path', [
        '', '/', '/../+index', '/abc/', '/abc/def', '/abc-def', '/abc%2Fdef', '/abc\n', '/abc\r\nX: y', '/abc?x',
        '/abc#x', '/%s', '/\xc3\xa9', '/\xd9\xa1', '/' + 'a' * 4097, '/check/', '/ abc', '/abc\0',
    ])
    def test_what_is_not_a_token_never_gets_into_a_url(self, make_env, path):
        with StubIssuer(200) as stub:
            env = make_env(stub.url)
            assert_refused(env, request(env, '/launchpad-auth' + path), 'That is not a login token')
        assert stub.requests == []

    def test_the_longest_token(self, make_env):
        with StubIssuer(200) as stub:
            assert request(make_env(stub.url), '/launchpad-auth/' + 'a' * 4096).status == 200

    @pytest.mark.parametrize('method', ['HEAD', 'POST', 'PUT', 'DELETE', 'OPTIONS', 'PROPFIND'])
    @pytest.mark.parametrize('path', [LOGIN, '/launchpad-auth/check'])
    def test_other_methods_ask_nothing(self, make_env, method, path):
        with StubIssuer(200) as stub:
            env = make_env(stub.url)
            response = request(env, path, method=method)
        assert response.status == 405
        assert response.headers['allow'] == 'GET'
        assert bool(response.text) == (method != 'HEAD')
        assert response.cookies == [] and auth_cookies(env) == [] and stub.requests == []

    def test_a_posted_form_is_refused_by_trac(self, make_env):
        with StubIssuer(200) as stub:
            env = make_env(stub.url)
            with pytest.raises(HTTPBadRequest):
                request(env, LOGIN, method='POST', CONTENT_TYPE='application/x-www-form-urlencoded')
        assert auth_cookies(env) == [] and stub.requests == []

    def test_a_caller_whom_the_web_server_knows_as_somebody_else(self, make_env):
        with StubIssuer(200) as stub:
            env = make_env(stub.url)
            assert_refused(env, request(env, LOGIN, REMOTE_USER='alice'), 'already logged you in as somebody else')
            assert stub.requests == []
            assert request(env, LOGIN, REMOTE_USER='launchpad').status == 200


    @pytest.mark.parametrize('header, value', [
        ('HTTP_SEC_PURPOSE', 'prefetch;prerender'), ('HTTP_SEC_PURPOSE', 'Prefetch'), ('HTTP_PURPOSE', 'prefetch'),
        ('HTTP_X_PURPOSE', 'preview'), ('HTTP_X_MOZ', 'prefetch'),
    ])
    def test_a_prefetch_asks_nothing(self, make_env, header, value):
        with StubIssuer(200) as stub:
            env = make_env(stub.url)
            assert_refused(env, request(env, LOGIN, **{header: value}), 'only loads a page in advance')
            assert stub.requests == []
            assert request(env, LOGIN, HTTP_SEC_PURPOSE='').status == 200


class TestTheNameIsTheIssuers:
    """Only a token opens a session under the configured name."""

    def person(self, env, cookie='hers', opened=None):
        env.db_transaction("INSERT INTO auth_cookie (cookie, name, ipnr, time) VALUES (%s, 'launchpad', '', %s)",
                           (cookie, opened or int(time.time())))

    def assert_shut_out(self, env, **environ):
        response = request(env, '/about', **environ)
        assert response.status == 403
        assert 'The name launchpad is reserved for the issuer' in response.text

    def test_a_token_opens_it(self, make_env):
        with StubIssuer(200) as stub:
            env = make_env(stub.url)
            session = request(env, LOGIN).session
        assert 'logged in as' in request(env, '/about', cookie='trac_auth=' + session).text

    def test_a_person_of_that_name_is_shut_out(self, make_env):
        env = make_env('https://issuer.example.org/token/%s')
        self.person(env)
        self.assert_shut_out(env, cookie='trac_auth=hers')
        self.assert_shut_out(env, REMOTE_USER='launchpad')
        self.assert_shut_out(env, REMOTE_USER='launchpad', cookie='trac_auth=launchpad-' + 'a' * 32)
        assert request(env, '/login', REMOTE_USER='launchpad').status == 403
        assert [name for name, _ in auth_cookies(env)] == ['launchpad'], 'no session is opened by the password'
        [warning, *_] = log_of_the_plugin(env, 'WARNING')
        assert 'as launchpad that no token opened the session of' in warning

    def test_everybody_else_comes_and_goes(self, make_env):
        env = make_env('https://issuer.example.org/token/%s')
        assert request(env, '/about', REMOTE_USER='alice').status == 200
        assert request(env, '/about').status == 200

    def test_a_token_session_of_more_than_ten_days_is_over(self, make_env):
        env = make_env('https://issuer.example.org/token/%s')
        self.person(env, 'launchpad-old', int(time.time()) - 10 * 86400 - 1)
        self.person(env, 'launchpad-new', int(time.time()) - 9 * 86400)
        self.assert_shut_out(env, cookie='trac_auth=launchpad-old')
        assert [cookie for _, cookie in auth_cookies(env)] == ['launchpad-new']
        assert request(env, '/about', cookie='trac_auth=launchpad-new').status == 200

    def test_the_letters_case(self, make_env):
        env = make_env('https://issuer.example.org/token/%s', user='LaunchPad', trac={'ignore_auth_case': 'true'})
        assert request(env, '/about', REMOTE_USER='LAUNCHPAD').status == 403

    @pytest.mark.parametrize('settings', [{'auth_server': ''}, {'user': ''}, {'user': 'anonymous'}])
    def test_where_nobody_can_log_in_no_name_is_reserved(self, make_env, settings):
        env = make_env(**{'auth_server': 'https://issuer.example.org/token/%s', **settings})
        assert request(env, '/about').status == 200
        assert request(env, '/about', REMOTE_USER='launchpad').status == 200


class TestAudience:
    def stated(self, make_env, base_url=BASE_URL, **options):
        with StubIssuer(200) as stub:
            env = make_env(stub.url, trac={'base_url': base_url}, **options)
            assert request(env, LOGIN, HTTP_HOST='victim.example.org').status == 200
            # Trac keeps the Host header of a first request in `env.abs_href` when it has no base_url.
            assert request(env, LOGIN, HTTP_HOST='victim.example.org').status == 200
        first, second = stub.requests
        assert first.form == second.form
        return first.form, log_of_the_plugin(env, 'WARNING')

    def test_it_is_the_configured_base_url(self, make_env):
        assert self.stated(make_env) == ({'audience': [BASE_URL]}, [])

    def test_it_can_be_configured_apart(self, make_env):
        stated, warnings = self.stated(make_env, audience='https://bugs.example.org/')
        assert stated == {'audience': ['https://bugs.example.org/']}
        assert warnings == []

    def test_none_is_stated_when_none_is_configured_and_that_is_said_once(self, make_env):
        stated, warnings = self.stated(make_env, base_url='')
        assert stated == {}
        [warning] = warnings
        assert 'Set [trac] base_url to the public URL of this Trac' in warning


class TestConfiguration:
    @pytest.mark.parametrize('options, sentence', [
        ({'auth_server': ''}, '[launchpad] auth_server is not set'),
        ({'auth_server': 'https://issuer.example.org/token/'}, '[launchpad] auth_server is not the URL of a handshake'),
        ({'user': ''}, '[launchpad] user must be the name of a user'),
        ({'user': 'anonymous'}, '[launchpad] user must be the name of a user'),
        ({'user': 'authenticated'}, '[launchpad] user must be the name of a user'),
        ({'timeout': 'soon'}, '[launchpad] timeout'),
        ({'timeout': '0'}, '[launchpad] timeout'),
        ({'proxy': 'nonsense'}, '[launchpad] proxy'),
        ({'audience': 'trac.example.org'}, '[launchpad] the audience is not a base URL'),
    ])
    def test_what_cannot_work_is_a_401_and_a_sentence_in_the_log(self, make_env, options, sentence):
        with StubIssuer(200) as stub:
            env = make_env(**{'auth_server': stub.url, **options})
            LaunchpadLogin(env)
            [at_the_start] = log_of_the_plugin(env, 'ERROR')
            assert 'Nobody can log in by token' in at_the_start and sentence in at_the_start
            assert_refused(env, request(env, LOGIN), 'Login by token is not configured here')
            assert sentence in log_of_the_plugin(env, 'ERROR')[-1]
            assert stub.requests == []

    def test_ca_file_is_relative_to_trac_ini(self, make_env, tmp_path):
        env = make_env('https://issuer.example.org/token/%s')
        env.config.filename = str(tmp_path / 'trac.ini')
        env.config.set('launchpad', 'ca_file', 'ca.pem')
        assert LaunchpadLogin(env).ca_file == str(tmp_path / 'ca.pem')
        [error] = log_of_the_plugin(env, 'ERROR')
        assert 'ca_file cannot be read' in error

    @pytest.mark.parametrize('host, warned', [
        ('issuer.example.org', True), ('192.0.2.1', True), ('localhost.example.org', True),
        ('localhost', False), ('127.0.0.1', False), ('127.1.2.3', False), ('[::1]', False), ('issuer.localhost', False),
    ])
    def test_a_token_in_clear_text_is_warned_about(self, make_env, host, warned):
        env = make_env('http://%s:8080/token/%%s/+bugtracker-handshake' % host)
        LaunchpadLogin(env)
        assert any('is not https' in message for message in log_of_the_plugin(env, 'WARNING')) == warned

    def test_https_is_not_warned_about(self, make_env):
        env = make_env('https://issuer.example.org/token/%s/+bugtracker-handshake')
        LaunchpadLogin(env)
        assert log_of_the_plugin(env) == []


class TestManners:
    @pytest.mark.parametrize('answer', [200, 401, 403, 302, 503, cut, ('%s\r\n\r\n' % TOKEN).encode('ascii')])
    def test_the_token_is_never_in_the_plugins_log(self, make_env, answer):
        with StubIssuer(answer) as stub:
            env = make_env(stub.url)
            request(env, LOGIN)
        messages = log_of_the_plugin(env)
        assert messages
        assert not any(TOKEN in message for message in messages)
        assert not any(key in message for message in messages for key in stub.keys)

    @pytest.mark.parametrize('path, matches', [
        (LOGIN, True), ('/launchpad-auth/check', True), ('/launchpad-auth', True), ('/launchpad-auth/', True),
        ('/', False), ('/launchpad-authority', False), ('/wiki/launchpad-auth/abc', False),
        ('/launchpad-auth2/abc', False),
    ])
    def test_matching_leaves_the_body_alone(self, make_env, path, matches):
        env = make_env()
        req = MockRequest(env, method='POST', path_info=path)
        parsed = []
        req.callbacks['args'] = req.callbacks['arg_list'] = parsed.append
        assert bool(LaunchpadLogin(env).match_request(req)) == matches
        assert parsed == []

    def test_it_is_no_page_to_start_with(self, make_env):
        assert LaunchpadLogin(make_env()).is_valid_default_handler is False
