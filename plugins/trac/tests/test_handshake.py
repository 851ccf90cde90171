"""The settings of `trac.ini` as the verifier gets them. What it does with them is tested with it, in verifiers/ and tests/verifiers."""

import subprocess
import sys
from pathlib import Path

import pytest

from countersign_trac import verifier_of
from stub_issuer import StubIssuer, StubProxy

ROOT = Path(__file__).resolve().parents[3]
GOOD = 'https://issuer.example.org/token/%s/+bugtracker-handshake'


def test_the_verifier_in_the_plugin_is_the_package():
    subprocess.run([sys.executable, str(ROOT / 'verifiers' / 'vendor'), '--check'], check=True)


def test_the_settings_reach_the_question():
    with StubProxy() as proxy, StubIssuer(200) as stub:
        verifier = verifier_of(stub.url, 'https://trac.example.org/project', 7.5, proxy='http://127.0.0.1:%d/' % proxy.port)
        verifier.verify('cs1abc')
    assert proxy.requests == ['CONNECT 127.0.0.1:%d' % stub.port]
    [request] = stub.requests
    assert request.form == {'audience': ['https://trac.example.org/project']}
    assert verifier.timeout == 7.5


def test_an_empty_setting_is_none():
    with StubIssuer(200) as stub:
        verifier_of(stub.url).verify('cs1abc')
    assert stub.requests[0].form == {}


def test_an_issuer_without_tls_is_permitted():
    assert not verifier_of('http://issuer.example.org/token/%s').is_protected


@pytest.mark.parametrize('settings, sentence', [
    ({'auth_server': ''}, 'auth_server is not set'),
    ({'auth_server': 'issuer.example.org/token/%s'}, 'auth_server is not the URL of a handshake'),
    ({'auth_server': 'https://issuer.example.org/token/'}, 'auth_server is not the URL of a handshake'),
    ({'auth_server': 'https://issuer.example.org'}, 'auth_server is not the URL of a handshake'),
    ({'auth_server': 'https://issuer.example.org/%s/%s'}, 'auth_server is not the URL of a handshake'),
    ({'auth_server': 'https://issuer.example.org/?token=%s'}, 'auth_server is not the URL of a handshake'),
    ({'auth_server': 'https://me:secret@issuer.example.org/%s'}, 'auth_server is not the URL of a handshake'),
    ({'auth_server': 'https://issuer.example.org:0/%s'}, 'auth_server is not the URL of a handshake'),
    ({'auth_server': 'https://issuer..example.org/%s'}, 'auth_server is not the URL of a handshake'),
    ({'auth_server': 'https://issuer.example.org/a b/%s'}, 'auth_server is not the URL of a handshake'),
    ({'auth_server': 'https://issuer.example.org/ä/%s'}, 'auth_server is not the URL of a handshake'),
    ({'auth_server': 'https://issuer.example.org/\r\nX: y/%s'}, 'auth_server is not the URL of a handshake'),
    ({'audience': 'trac.example.org'}, 'audience'),
    ({'timeout': 0.0}, 'timeout'),
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
        verifier_of(**{'auth_server': GOOD, **settings})
    assert 'secret' not in str(raised.value)
