"""A real tracd and a real Countersign, whose binary `COUNTERSIGN_BIN` names.

One page of each Trac, PAGE, may be seen by the user `launchpad` alone.
"""

import os
import threading
import time
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from hashlib import sha1
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from real_servers import Client, Countersign, HostileTrac, Tracd, make_trac

PAGE = '/wiki/WikiStart'


@pytest.fixture(scope='session')
def binary():
    path = os.environ.get('COUNTERSIGN_BIN')
    if not path or not os.access(path, os.X_OK):
        pytest.fail('Set COUNTERSIGN_BIN to the path of a built countersign, or leave these tests out with '
                    '--ignore tests/test_end_to_end.py', pytrace=False)
    return os.path.abspath(path)


@pytest.fixture(scope='module')
def issuer(binary, tmp_path_factory):
    with Countersign(binary, tmp_path_factory.mktemp('issuer')) as issuer:
        yield issuer


@pytest.fixture(scope='module')
def template(tmp_path_factory):
    directory = tmp_path_factory.mktemp('template') / 'env'
    make_trac(directory)
    return directory


@pytest.fixture(scope='module')
def trac(template, issuer, tmp_path_factory):
    with Tracd(template, tmp_path_factory.mktemp('trac') / 'env', issuer.auth_server) as trac:
        yield trac


@pytest.fixture
def worker(trac):
    return Client(trac.url)


def log_in(client, token):
    return client.ask('/launchpad-auth/' + token)


def assert_logged_in(client, answer):
    assert answer == (200, 'Logged in as launchpad.\n')
    status, page = client.ask(PAGE)
    assert status == 200 and 'logged in as' in page and 'launchpad' in page


def assert_refused(client, answer, sentence):
    status, text = answer
    assert status == 401 and sentence in text
    assert not client.has_session
    assert client.ask(PAGE)[0] == 403


def test_login(issuer, trac, worker):
    assert worker.ask(PAGE)[0] == 403
    token = issuer.issue()
    assert_logged_in(worker, log_in(worker, token))
    assert issuer.status(token) == 'consumed'


def test_login_with_a_token_for_this_trac(issuer, trac, worker):
    assert_logged_in(worker, log_in(worker, issuer.issue(audience=trac.url + '/')))


def test_check(trac, worker):
    assert_refused(worker, worker.ask('/launchpad-auth/check'), 'This Trac logs in whoever brings a login token')


def test_second_use(issuer, trac, worker):
    token = issuer.issue(audience=trac.url)
    assert_logged_in(worker, log_in(worker, token))
    stranger = Client(trac.url)
    assert_refused(stranger, log_in(stranger, token), 'it has been used already')
    assert worker.ask(PAGE)[0] == 200, 'the replay must not harm the first session'


def test_many_at_once_with_one_token(issuer, trac):
    token = issuer.issue(audience=trac.url)
    clients = [Client(trac.url) for _ in range(8)]
    with ThreadPoolExecutor(len(clients)) as pool:
        answers = list(pool.map(lambda client: log_in(client, token), clients))
    assert sorted(status for status, _ in answers) == [200] + [401] * 7
    assert sum(client.has_session for client in clients) == 1


def test_many_at_once_with_a_token_each(issuer, trac):
    clients = {issuer.issue(audience=trac.url): Client(trac.url) for _ in range(8)}
    with ThreadPoolExecutor(len(clients)) as pool:
        answers = list(pool.map(lambda token: log_in(clients[token], token), clients))
    for client, answer in zip(clients.values(), answers):
        assert_logged_in(client, answer)


def test_revoked(issuer, worker):
    token = issuer.issue()
    issuer.revoke(token)
    assert_refused(worker, log_in(worker, token), 'it has been used already, has expired or was revoked')


def test_expired(issuer, worker):
    token = issuer.issue(ttl=1)
    deadline = time.monotonic() + 30
    while issuer.status(token) != 'expired':
        assert time.monotonic() < deadline, 'the token does not expire'
        time.sleep(0.05)
    assert_refused(worker, log_in(worker, token), 'it has been used already, has expired or was revoked')


def test_not_a_token_of_this_issuer(worker):
    assert_refused(worker, log_in(worker, 'abc'), 'it is not one of its tokens')


def test_wrong_audience(issuer, worker):
    token = issuer.issue(audience='https://elsewhere.example.org/')
    assert_refused(worker, log_in(worker, token), 'it was issued for another bug tracker than this one')
    assert issuer.status(token) == 'live'


def test_issuer_is_down(binary, template, tmp_path):
    (tmp_path / 'issuer').mkdir()
    with Countersign(binary, tmp_path / 'issuer') as issuer:
        token = issuer.issue()
        issuer.stop()
    with Tracd(template, tmp_path / 'env', issuer.auth_server) as trac:
        worker = Client(trac.url)
        assert_refused(worker, log_in(worker, token), 'The issuer could not be reached')
        assert 'no answer from the issuer' in trac.trac_log.read_text()


class ForgetfulGateway(ThreadingHTTPServer):
    """Hands each request on to the issuer at `public_url`, and loses its first answer."""

    daemon_threads = True

    def __init__(self, public_url):
        super().__init__(('127.0.0.1', 0), _Forward)
        self.issuer = urlsplit(public_url).netloc
        self.answers = []
        self.auth_server = 'http://127.0.0.1:%d/token/%%s/+bugtracker-handshake' % self.server_address[1]
        threading.Thread(target=self.serve_forever, kwargs={'poll_interval': 0.01}, daemon=True).start()

    def __exit__(self, *args):
        self.shutdown()
        self.server_close()


class _Forward(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length']))
        with closing(HTTPConnection(self.server.issuer, timeout=30)) as issuer:
            issuer.request('POST', self.path, body, dict(self.headers))
            status = issuer.getresponse().status
        self.server.answers.append(status)
        if len(self.server.answers) > 1:
            self.send_response(status)
            self.send_header('Content-Length', '0')
            self.end_headers()

    def log_message(self, *args):
        pass


def test_a_lost_answer_does_not_lose_the_token(issuer, template, tmp_path):
    with ForgetfulGateway(issuer.public_url) as gateway:
        with Tracd(template, tmp_path / 'env', gateway.auth_server) as trac:
            worker = Client(trac.url)
            token = issuer.issue(audience=trac.url)
            assert_logged_in(worker, log_in(worker, token))
            assert gateway.answers == [200, 200], 'the second is the answer to the same key'
            stranger = Client(trac.url)
            assert_refused(stranger, log_in(stranger, token), 'it has been used already')


def test_head_does_not_consume(issuer, trac, worker):
    token = issuer.issue(audience=trac.url)
    assert worker.ask('/launchpad-auth/' + token, 'HEAD') == (405, '')
    assert not worker.has_session
    assert issuer.status(token) == 'live'
    assert_logged_in(worker, log_in(worker, token))


def test_tokens_stay_out_of_the_log(issuer, trac, worker):
    tokens = [issuer.issue(audience=trac.url), issuer.issue(audience='https://elsewhere.example.org/')]
    for token in tokens:
        log_in(worker, token)
    log = trac.trac_log.read_text()
    assert 'answered HTTP 403' in log
    assert not any(token in log for token in tokens)


def test_who_registers_the_issuers_name_gains_nothing(template, tmp_path):
    """A person has an account of that name with AccountManager, and logs in with its form."""
    passwords = tmp_path / 'passwords'
    settings = [('components', 'acct_mgr.*', 'enabled'), ('components', 'trac.web.auth.LoginModule', 'disabled'),
                ('account-manager', 'password_store', 'HtPasswdStore'),
                ('account-manager', 'htpasswd_file', str(passwords)), ('account-manager', 'htpasswd_hash_type', 'sha512'),
                ('account-manager', 'verify_email', 'false')]
    passwords.write_text(''.join('%s:{SHA}%s\n' % (name, b64encode(sha1(b'hers').digest()).decode())
                                 for name in ('launchpad', 'alice')))
    with Tracd(template, tmp_path / 'env', 'http://127.0.0.1:1/token/%s', settings) as trac:
        Client(trac.url).ask('/login')  # AccountManager lets the first visitor in, to set it up
        answers = {}
        for name in ('launchpad', 'alice'):
            person = Client(trac.url)
            assert person.ask('/login')[0] == 200
            [token] = [cookie.value for cookie in person.jar if cookie.name == 'trac_form_token']
            status, _ = person.ask('/login', 'POST', form={'username': name, 'password': 'hers', '__FORM_TOKEN': token})
            answers[name] = status, person.has_session
    assert answers['launchpad'] == (403, False)
    assert answers['alice'][1], 'anybody else can log in'


class TestRelayAttack:
    """The worker means to log in to a hostile Trac, which hands its token on to an honest one."""

    @pytest.fixture
    def hostile(self, template, trac, tmp_path):
        with HostileTrac(template, tmp_path / 'env', victim=trac.url, page=PAGE) as hostile:
            yield hostile

    def test_an_unbound_token_lets_the_hostile_tracker_in(self, issuer, hostile):
        login, page = hostile.receive(issuer.issue())
        assert login == [200, 'Logged in as launchpad.\n']
        assert page[0] == 200 and 'logged in as' in page[1]

    def test_a_bound_token_does_not_and_leaves_an_event(self, issuer, hostile):
        token = issuer.issue(audience=hostile.url)
        login, page = hostile.receive(token)
        assert login[0] == 401 and 'it was issued for another bug tracker than this one' in login[1]
        assert page[0] == 403
        assert issuer.status(token) == 'live'
        issuer.wait_for_event(token, 'relay')
