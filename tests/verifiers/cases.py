"""Holds verifiers in several languages to the table in cases.json, each by an adapter that asks what a line of its input says."""

import functools
import json
import os
import re
import socket
import ssl
import subprocess
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path

from stub_issuer import StubIssuer, StubProxy, cut, drip, endless, http, repeat, silence

CASES = json.loads((Path(__file__).parent / 'cases.json').read_text(encoding='utf-8'))
TOKEN = 'cs1abcdefghijklmnopqrstuvwxyz234567'
AUDIENCE = 'https://bugs.example.org/trac'
FORM = 'application/x-www-form-urlencoded'


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(('::1', 0))
    except OSError:
        print("NOT TRIED: issuers on IPv6. This machine's loopback has none.")
        return False
    return True


IPV6 = has_ipv6()


def openssl(*arguments):
    subprocess.run(['openssl', *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


class Certificates:
    """An authority, and servers' certificates that are good, for another name, and expired."""

    def __init__(self, directory):
        self.directory = directory
        self.authority = str(directory / 'authority.pem')
        openssl('req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-subj', '/CN=authority',
                '-days', '2', '-keyout', str(directory / 'authority.key'), '-out', self.authority,
                '-addext', 'basicConstraints=critical,CA:TRUE', '-addext', 'keyUsage=critical,keyCertSign')
        self.contexts = {name: self._context(name, host, days)
                         for name, host, days in [('good', 'localhost', 2), ('name', 'issuer.example.org', 2),
                                                  ('expired', 'localhost', -1)]}
        self.contexts['unknown'] = self.contexts['good']

    def _context(self, name, host, days):
        key, request, extensions, certificate = (str(self.directory / (name + end)) for end in ('.key', '.csr', '.ext', '.pem'))
        Path(extensions).write_text('subjectAltName=DNS:%s\nextendedKeyUsage=serverAuth\n' % host)
        openssl('req', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-subj', '/CN=' + host,
                '-keyout', key, '-out', request)
        openssl('x509', '-req', '-in', request, '-CA', self.authority, '-CAkey', self.authority.replace('.pem', '.key'),
                '-CAcreateserial', '-days', str(days), '-extfile', extensions, '-out', certificate)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        return context


class Adapter:
    """A verifier in a process of its own, whose environment names a proxy that must not be used."""

    def __init__(self, name, command, full=True, reads_json=True, environment=None):
        self.name, self.full, self.reads_json = name, full, reads_json
        self.proxy = StubProxy()
        clean = {key: value for key, value in os.environ.items() if not key.lower().endswith('_proxy')}
        named = {key: 'http://127.0.0.1:%d' % self.proxy.port
                 for word in ('http_proxy', 'https_proxy', 'all_proxy', 'cgi_http_proxy') for key in (word, word.upper())}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        env={**clean, **named, **(environment or {})})
        self.noise = []
        threading.Thread(target=lambda: self.noise.extend(self.process.stderr), daemon=True).start()

    def ask(self, settings, token):
        try:
            self.process.stdin.write(json.dumps({'settings': settings, 'token': token}).encode('ascii') + b'\n')
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = b''
        if not line:
            self.process.wait()
            raise AssertionError('the adapter ended: %s' % b''.join(self.noise).decode('utf-8', 'replace'))
        return json.loads(line)

    def close(self):
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # it has ended by itself, which was found out
        self.process.wait(60)
        with self.proxy:
            pass


class Run:
    """All cases with one verifier. `failures` has a sentence for each that went wrong."""

    def __init__(self, adapter, certificates):
        self.adapter, self.certificates = adapter, certificates
        self.failures, self.cases, self.keys = [], 0, set()

    def is_for(self, case):
        """Whether this verifier, on this machine, is to keep this case."""
        if case.get('ipv6') and not IPV6:
            return False
        return (self.adapter.full or not case.get('library')) and (self.adapter.reads_json or not case.get('reads_json'))

    def all(self):
        with closing(self.adapter):
            for token in CASES['tokens']['good']:
                self.case('token %.20r' % token, self.token_is_asked_about, expand(token))
            for token in CASES['tokens']['malformed']:
                self.case('malformed token %.20r' % token, self.token_is_malformed, expand(token))
            for case in CASES['handshakes']:
                if self.is_for(case):
                    self.case(case['name'], self.handshake, case)
            if self.adapter.full:
                for issuer, target in CASES['issuers']['good']:
                    self.case('issuer %r' % issuer, self.issuer_is_asked_at, issuer, target)
                for issuer in CASES['issuers']['usage']:
                    self.case('no issuer %r' % issuer, self.settings_cannot_work, {'issuer': issuer, 'audience': AUDIENCE})
                for audience in CASES['audiences']['good']:
                    self.case('audience %r' % audience, self.handshake, {'answers': [200], 'audience': audience,
                                                                         'outcome': 'accepted', 'asked': 1})
                for audience in CASES['audiences']['usage']:
                    self.case('no audience %.30r' % audience, self.settings_cannot_work,
                              {'issuer': 'http://127.0.0.1:9', 'audience': expand(audience)})
            self.case('proxies of the environment', self.nothing_went_through_the_proxy)
        self.case('what is written besides', self.noise_has_no_token)

    def case(self, name, check, *arguments):
        self.cases += 1
        try:
            check(*arguments)
        except AssertionError as error:
            self.failures.append('%s: %s: %s' % (self.adapter.name, name, error))

    def ask(self, settings, token=TOKEN):
        settings = {'timeout': 20, **{name: value for name, value in settings.items() if value is not None}}
        said = self.adapter.ask(settings, token)
        assert len(token) < 20 or token not in said['text'], 'the token is in the text: %s' % said['text']
        return said

    def expect(self, said, outcome):
        expected = outcome if self.adapter.full or outcome == 'accepted' else 'rejected'
        assert said['outcome'] == expected, '%s instead of %s: %s' % (said['outcome'], expected, said['text'])

    def token_is_asked_about(self, token):
        with StubIssuer(200) as stub:
            self.expect(self.ask({'issuer': stub.url, 'audience': AUDIENCE}, token), 'accepted')
        assert [request.target for request in stub.requests] == ['/token/%s/+bugtracker-handshake' % token], stub.requests

    def token_is_malformed(self, token):
        with StubIssuer(200) as stub:
            self.expect(self.ask({'issuer': stub.url, 'audience': AUDIENCE}, token), 'malformed')
        assert stub.connections == 0, 'the issuer was asked'

    def issuer_is_asked_at(self, issuer, target):
        with StubIssuer(200) as stub:
            issuer = issuer.replace('{origin}', 'http://127.0.0.1:%d' % stub.port)
            self.expect(self.ask({'issuer': issuer, 'audience': AUDIENCE}, 'T'), 'accepted')
        assert [request.target for request in stub.requests] == [target], stub.requests[0].target

    def settings_cannot_work(self, settings):
        said = self.ask(settings)
        self.expect(said, 'usage')
        assert 'secret' not in said['text'], said['text']

    def handshake(self, case):
        audience = case.get('audience', AUDIENCE)
        with ExitStack() as stack:
            elsewhere = stack.enter_context(StubIssuer(200))
            stub = stack.enter_context(self.stub(case, 'http://127.0.0.1:%d/' % elsewhere.port))
            settings = {'issuer': stub.url, 'audience': audience, 'timeout': case.get('timeout')}
            if case.get('tls'):
                settings['issuer'] = re.sub('^https?://127.0.0.1', 'https://localhost', stub.url)
                settings['ca_file'] = None if case['tls'] == 'unknown' else self.certificates.authority
            if not case['answers']:
                closed = stack.enter_context(socket.socket())
                closed.bind(('127.0.0.1', 0))  # bound and not listening: connections are refused
                settings['issuer'] = 'http://127.0.0.1:%d/token/%%s/+bugtracker-handshake' % closed.getsockname()[1]
            if case.get('proxy'):
                proxy = stack.enter_context(StubProxy(refuses=case['proxy'] == 'refuses'))
                settings['proxy'] = 'http://127.0.0.1:%d' % proxy.port
            before = time.monotonic()
            said = self.ask(settings)
            took = time.monotonic() - before
            self.expect(said, case['outcome'])
            assert len(stub.requests) == case['asked'], 'asked %d times: %s' % (len(stub.requests), said)
            assert stub.connections == case.get('connections', stub.connections), '%d connections' % stub.connections
            assert elsewhere.connections == 0, 'the server was asked that an answer named'
            assert took >= case.get('pause', 0), 'asked again after %.1f seconds' % took
            # Long before the slow answers end by themselves.
            assert took < 15, 'it took %.1f seconds' % took
            if self.adapter.reads_json:
                says = case.get('says', said.get('says'))
                assert said.get('says') == says, said.get('says')
            if case.get('proxy'):
                assert proxy.requests[0] == 'CONNECT %s' % settings['issuer'].split('/')[2], proxy.requests
            self.questions_are_right(stub.requests, settings['issuer'], audience)

    def stub(self, case, elsewhere):
        tls = case.get('tls')
        answers = [behaviour(answer, elsewhere) for answer in case['answers']]
        if tls in ('none', 'silent'):
            return StubIssuer(greeting=b'HTTP/1.1 200 OK\r\n\r\n' if tls == 'none' else b'')
        return StubIssuer(*answers, tls=self.certificates.contexts[tls] if tls else None, ipv6=case.get('ipv6', False))

    def questions_are_right(self, requests, issuer, audience):
        keys = {request.headers.get('idempotency-key', '') for request in requests}
        for request in requests:
            assert request.method == 'POST', request.method
            assert request.target == '/token/%s/+bugtracker-handshake' % TOKEN, request.target
            assert request.headers['host'] == issuer.split('/')[2], request.headers['host']
            assert request.form == ({} if audience is None else {'audience': [audience.strip()]}), request.form
            assert request.headers['content-type'] == FORM, request.headers['content-type']
            assert 'authorization' not in request.headers and 'cookie' not in request.headers, request.headers
            assert not any(TOKEN in value for value in request.headers.values()), request.headers
        assert len(keys) <= 1, 'two keys in one login: %s' % keys
        for key in keys:
            assert re.fullmatch('[0-9A-Za-z]{16,64}', key), 'the key is %r' % key
            assert key not in self.keys, 'the key of another login'
        self.keys |= keys

    def nothing_went_through_the_proxy(self):
        assert self.adapter.proxy.requests == [], self.adapter.proxy.requests

    def noise_has_no_token(self):
        noise = b''.join(self.adapter.noise).decode('utf-8', 'replace')
        assert TOKEN not in noise, noise
        assert not any(key in noise for key in self.keys), noise


def expand(text):
    """What `{600 times a}` stands for."""
    return re.sub(r'\{(\d+) times (.)\}', lambda found: int(found[1]) * found[2], text)


def behaviour(answer, elsewhere):
    fill = functools.partial(_fill, elsewhere=elsewhere)
    if isinstance(answer, int):
        return answer
    if answer in ('close', 'silence'):
        return {'close': cut, 'silence': silence}[answer]
    if 'raw' in answer:
        return fill(answer['raw']).encode('utf-8')
    if 'drip' in answer:
        return drip(answer['drip'].encode('utf-8'), after=answer.get('after', '').encode('utf-8'))
    if 'repeat' in answer:
        return repeat(answer['repeat'].encode('utf-8'))
    if 'endless' in answer:
        return endless(answer['endless'].encode('utf-8'))
    headers = answer.get('headers', {})
    body = answer.get('body', '')
    if 'json' in answer:
        headers, body = {'Content-Type': 'application/json'}, json.dumps(answer['json'], ensure_ascii=False)
    return http(answer['status'], ''.join('%s: %s\r\n' % (name, fill(value)) for name, value in headers.items()), fill(body))


def _fill(text, elsewhere):
    text = text.replace('{elsewhere}', elsewhere).replace('{token}', TOKEN)
    return text.replace('{200 times a header of 1000 bytes}', ('X-Long: %s\r\n' % ('x' * 990)) * 200)
