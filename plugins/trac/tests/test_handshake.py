"""What the plugin asks an issuer, and what it takes for a yes, against real and misbehaving servers."""

import re
import socket
import ssl
import threading
from http.client import BadStatusLine, RemoteDisconnected

import pytest
import trustme

from countersign_trac import Issuer
from stub_issuer import StubIssuer, StubProxy, continue_without_end, cut, drip, endless_body, http, silence


def test_the_question():
    with StubIssuer(200) as stub:
        assert Issuer(stub.url, 'https://trac.example.org/a b?c&d').redeem('cs1abc') == 200
    [request] = stub.requests
    assert request.method == 'POST'
    assert request.target == '/token/cs1abc/+bugtracker-handshake'
    assert request.headers['content-type'] == 'application/x-www-form-urlencoded'
    assert request.headers['host'] == '127.0.0.1:%d' % stub.port
    assert request.form == {'audience': ['https://trac.example.org/a b?c&d']}


def test_no_audience_is_no_field():
    with StubIssuer(200) as stub:
        assert Issuer(stub.url).redeem('cs1abc') == 200
    [request] = stub.requests
    assert request.form == {}
    assert request.headers['content-length'] == '0'


def test_the_configured_url_is_used_as_it_is_written():
    with StubIssuer(200) as stub:
        url = 'HTTP://127.0.0.1:%d/a%%2Fb/%%s/%%2Bbugtracker-handshake?x=1%%26' % stub.port
        assert Issuer(url).redeem('cs1abc') == 200
    assert stub.requests[0].target == '/a%2Fb/cs1abc/%2Bbugtracker-handshake?x=1%26'


@pytest.mark.parametrize('status', [201, 202, 204, 206, 301, 302, 307, 308, 400, 401, 403, 404, 405, 410, 429, 500])
def test_other_answers_are_handed_back_after_one_question(status):
    with StubIssuer(200) as elsewhere, StubIssuer() as stub:
        stub.answers = [http(status, 'Location: %s\r\n' % (elsewhere.url % 'cs1abc'))]
        assert Issuer(stub.url).redeem('cs1abc') == status
    assert len(stub.requests) == 1
    assert elsewhere.requests == []


def test_200_with_a_location_is_a_yes_and_the_location_is_not_visited():
    with StubIssuer(200) as elsewhere, StubIssuer() as stub:
        stub.answers = [http(200, 'Location: %s\r\nRefresh: 0\r\n' % (elsewhere.url % 'cs1abc'))]
        assert Issuer(stub.url).redeem('cs1abc') == 200
    assert elsewhere.requests == []


@pytest.mark.parametrize('lost', [cut, silence, b'garbage\r\n\r\n', b'HTTP/1.1 2', 502, 503, 504],
                         ids=['cut', 'silence', 'garbage', 'cut-in-status', '502', '503', '504'])
def test_a_lost_answer_is_asked_for_once_more_with_the_same_key(lost):
    with StubIssuer(lost, 200) as stub:
        assert Issuer(stub.url, timeout=0.5).redeem('cs1abc') == 200
    first, second = stub.requests
    assert first.target == second.target
    assert first.headers['idempotency-key'] == second.headers['idempotency-key']


@pytest.mark.parametrize('lost, error', [
    (cut, RemoteDisconnected), (silence, socket.timeout), (b'garbage\r\n\r\n', BadStatusLine),
], ids=['cut', 'silence', 'garbage'])
def test_an_answer_that_is_lost_twice_is_an_error(lost, error):
    with StubIssuer(lost) as stub:
        with pytest.raises(error):
            Issuer(stub.url, timeout=0.2).redeem('cs1abc')
    assert len(stub.requests) == 2


def test_unavailable_twice_is_the_answer():
    with StubIssuer(503) as stub:
        assert Issuer(stub.url).redeem('cs1abc') == 503
    assert len(stub.requests) == 2


def test_a_refusal_after_a_lost_answer_is_the_answer():
    with StubIssuer(cut, 401) as stub:
        assert Issuer(stub.url).redeem('cs1abc') == 401
    assert len(stub.requests) == 2


def test_nobody_listens():
    with socket.socket() as closed:
        closed.bind(('127.0.0.1', 0))  # bound and not listening: connections are refused
        with pytest.raises(ConnectionRefusedError):
            Issuer('http://127.0.0.1:%d/%%s' % closed.getsockname()[1]).redeem('cs1abc')


def test_each_login_has_its_own_key():
    with StubIssuer(200) as stub:
        issuer = Issuer(stub.url)
        for _ in range(3):
            issuer.redeem('cs1abc')
    assert len(set(stub.keys)) == 3
    assert all(re.fullmatch('[0-9a-f]{32}', key) for key in stub.keys)


def test_a_body_without_end_is_not_read():
    with StubIssuer(endless_body) as stub:
        assert Issuer(stub.url).redeem('cs1abc') == 200


SLOW_ANSWERS = {
    'slow status': drip(b'HTTP/1.1 200 A very slow status line indeed\r\n\r\n'),
    'slow headers': drip(b'HTTP/1.1 200 OK\r\nX-Slow: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n\r\n'),
    'continue without end': continue_without_end,
    'slow continue': drip(b'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n'),
}


def assert_no_thread_is_left():
    for thread in threading.enumerate():
        if thread.name == 'countersign-trac':
            thread.join(30)
            assert not thread.is_alive(), 'the question goes on after its answer is no longer wanted'


@pytest.mark.parametrize('answer', SLOW_ANSWERS.values(), ids=SLOW_ANSWERS)
def test_an_answer_that_takes_too_long_in_all_is_not_believed(answer):
    with StubIssuer(answer) as stub:
        with pytest.raises(TimeoutError, match='no whole answer within 0.3 seconds'):
            Issuer(stub.url, timeout=0.3).redeem('cs1abc')
        assert_no_thread_is_left()
    assert len(set(stub.keys)) == 1 and len(stub.keys) == 2


def test_a_slow_proxy_is_not_waited_for_either():
    with StubIssuer(drip(b'HTTP/1.1 200 Connection established\r\n\r\n')) as slow, StubIssuer(200) as stub:
        with pytest.raises(TimeoutError):
            Issuer(stub.url, timeout=0.3, proxy='http://127.0.0.1:%d' % slow.port).redeem('cs1abc')
        assert_no_thread_is_left()
    assert stub.requests == []


def test_proxies_of_the_environment_are_ignored(monkeypatch):
    with StubProxy() as proxy, StubIssuer(200) as stub:
        for name in ('http_proxy', 'https_proxy', 'all_proxy'):
            monkeypatch.setenv(name, 'http://127.0.0.1:%d' % proxy.port)
            monkeypatch.setenv(name.upper(), 'http://127.0.0.1:%d' % proxy.port)
        monkeypatch.setenv('no_proxy', '')
        assert Issuer(stub.url).redeem('cs1abc') == 200
    assert proxy.requests == []


def test_the_configured_proxy_is_used():
    with StubProxy() as proxy, StubIssuer(200) as stub:
        assert Issuer(stub.url, proxy='http://127.0.0.1:%d/' % proxy.port).redeem('cs1abc') == 200
    assert proxy.requests == ['CONNECT 127.0.0.1:%d' % stub.port]
    assert stub.requests[0].target == '/token/cs1abc/+bugtracker-handshake'
    assert stub.requests[0].headers['host'] == '127.0.0.1:%d' % stub.port


class TestTls:
    @pytest.fixture(scope='class')
    def authority(self):
        return trustme.CA()

    @pytest.fixture(scope='class')
    def ca_file(self, authority, tmp_path_factory):
        path = tmp_path_factory.mktemp('ca') / 'ca.pem'
        authority.cert_pem.write_to_path(path)
        return str(path)

    @staticmethod
    def context(authority, name):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(context)
        return context

    def test_a_known_authority(self, authority, ca_file):
        with StubIssuer(200, tls=self.context(authority, '127.0.0.1')) as stub:
            assert Issuer(stub.url, ca_file=ca_file).redeem('cs1abc') == 200
        assert len(stub.requests) == 1

    def test_an_answer_over_tls_that_takes_too_long_in_all_is_not_believed(self, authority, ca_file):
        with StubIssuer(SLOW_ANSWERS['slow headers'], tls=self.context(authority, '127.0.0.1')) as stub:
            with pytest.raises(TimeoutError):
                Issuer(stub.url, ca_file=ca_file, timeout=0.3).redeem('cs1abc')
            assert_no_thread_is_left()

    def test_through_the_proxy_the_issuer_is_verified_and_not_the_proxy(self, authority, ca_file):
        with StubProxy() as proxy, StubIssuer(200, tls=self.context(authority, 'localhost')) as stub:
            url = stub.url.replace('127.0.0.1', 'localhost')
            assert Issuer(url, ca_file=ca_file, proxy='http://127.0.0.1:%d' % proxy.port).redeem('cs1abc') == 200
        assert proxy.requests == ['CONNECT localhost:%d' % stub.port]

    def test_an_unknown_authority_is_told_nothing_and_not_asked_again(self, authority):
        with StubIssuer(200, tls=self.context(authority, '127.0.0.1')) as stub:
            with pytest.raises(ssl.SSLCertVerificationError):
                Issuer(stub.url).redeem('cs1abc')
        assert stub.requests == []
        assert stub.connections == 1

    def test_another_host_name_is_told_nothing(self, authority, ca_file):
        with StubIssuer(200, tls=self.context(authority, 'issuer.example.org')) as stub:
            with pytest.raises(ssl.SSLCertVerificationError):
                Issuer(stub.url, ca_file=ca_file).redeem('cs1abc')
        assert stub.requests == []

    def test_a_server_without_tls_is_told_nothing(self):
        with StubIssuer(200) as stub:
            with pytest.raises(OSError):
                Issuer(stub.url.replace('http:', 'https:'), timeout=0.2).redeem('cs1abc')
        assert not any('cs1abc' in request.target for request in stub.requests)


GOOD = 'https://issuer.example.org/token/%s/+bugtracker-handshake'


@pytest.mark.parametrize('settings, sentence', [
    ({'auth_server': ''}, 'auth_server is not set'),
    ({'auth_server': 'issuer.example.org/token/%s'}, 'auth_server is not the URL of a handshake'),
    ({'auth_server': 'ftp://issuer.example.org/token/%s'}, 'auth_server is not the URL of a handshake'),
    ({'auth_server': 'file:///token/%s'}, 'auth_server is not the URL of a handshake'),
    ({'auth_server': 'https:///token/%s'}, 'auth_server is not the URL of a handshake'),
    ({'auth_server': 'https://issuer.example.org/token/'}, 'auth_server is not the URL of a handshake'),
    ({'auth_server': 'https://issuer.example.org/%s/%s'}, 'auth_server is not the URL of a handshake'),
    ({'auth_server': 'https://%s.example.org/token/'}, 'auth_server is not the URL of a handshake'),
    ({'auth_server': 'https://issuer.example.org/?token=%s'}, 'auth_server is not the URL of a handshake'),
    ({'auth_server': 'https://me:secret@issuer.example.org/%s'}, 'auth_server is not the URL of a handshake'),
    ({'auth_server': 'https://issuer.example.org:0/%s'}, 'auth_server is not the URL of a handshake'),
    ({'auth_server': 'https://issuer.example.org:99999/%s'}, 'auth_server is not the URL of a handshake'),
    ({'auth_server': 'https://issuer..example.org/%s'}, 'auth_server is not the URL of a handshake'),
    ({'auth_server': 'https://[::1/%s'}, 'auth_server is not the URL of a handshake'),
    ({'auth_server': 'https://issuer.example.org/a b/%s'}, 'auth_server is not the URL of a handshake'),
    ({'auth_server': 'https://issuer.example.org/ä/%s'}, 'auth_server is not the URL of a handshake'),
    ({'auth_server': 'https://issuer.example.org/\r\nX: y/%s'}, 'auth_server is not the URL of a handshake'),
    ({'timeout': 0.0}, 'timeout'),
    ({'timeout': -1.0}, 'timeout'),
    ({'timeout': 61.0}, 'timeout'),
    ({'timeout': float('nan')}, 'timeout'),
    ({'proxy': 'proxy.example.org:3128'}, 'proxy'),
    ({'proxy': 'socks5://proxy.example.org'}, 'proxy'),
    ({'proxy': 'http://me:secret@proxy.example.org'}, 'proxy'),
    ({'ca_file': '/nowhere/ca.pem'}, 'ca_file'),
    ({'ca_file': __file__}, 'ca_file'),
])
def test_settings_that_cannot_work(settings, sentence):
    with pytest.raises(ValueError, match=sentence) as raised:
        Issuer(**{'auth_server': GOOD, **settings})
    assert 'secret' not in str(raised.value)
