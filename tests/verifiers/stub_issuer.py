"""An issuer, and a proxy, for the tests of verifiers and plugins: real servers on a free loopback port that record what they are asked."""

import socket
import socketserver
import sys
import threading
from urllib.parse import parse_qs


class Request:
    """One request as it came over the wire. `form` maps a field's name to its values."""

    def __init__(self, method, target, headers, body):
        self.method, self.target, self.headers = method, target, headers
        self.form = parse_qs(body.decode('ascii'), keep_blank_values=True)


def http(status, headers='', body='whatever'):
    """A whole HTTP answer as bytes; `headers` is one or more lines, each with its line end."""
    body = body.encode('utf-8')
    return ('HTTP/1.1 %d Some Reason\r\n%sContent-Length: %d\r\n\r\n'
            % (status, headers, len(body))).encode('utf-8') + body


def cut(handler):
    """Read the request, then close the connection without a word."""


def silence(handler):
    """Read the request, then hold the connection until the test is over."""
    handler.server.over.wait(30)


def endless(head):
    """Start an answer with `head`; its body has no end."""
    def answer(handler):
        try:
            handler.wfile.write(head)
            while not handler.server.over.is_set():
                handler.wfile.write(b' ' * 65536)
        except OSError:
            pass  # the client has gone, which is right
    return answer


endless_body = endless(b'HTTP/1.1 200 OK\r\n\r\n')


def drip(data, pause=0.05, after=b''):
    """Send an answer byte by byte, each long before a wait for it is too long; what it comes `after` at once."""
    def answer(handler):
        try:
            handler.wfile.write(after)
            for byte in data:
                if handler.server.over.wait(pause):
                    return
                handler.wfile.write(bytes([byte]))
        except OSError:
            pass  # the client has gone, which is right
    return answer


def repeat(data):
    """Say the same again and again."""
    def answer(handler):
        try:
            while not handler.server.over.wait(0.01):
                handler.wfile.write(data)
        except OSError:
            pass  # the client has gone, which is right
    return answer


continue_without_end = repeat(b'HTTP/1.1 100 Continue\r\n\r\n')


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    # socketserver's 5 is too short for a test with many callers: the kernel drops the others, which come back seconds later.
    request_queue_size = 128

    def __init__(self, handler, ipv6=False):
        self.address_family = socket.AF_INET6 if ipv6 else socket.AF_INET
        self.host = '[::1]' if ipv6 else '127.0.0.1'
        super().__init__(('::1' if ipv6 else '127.0.0.1', 0), handler)
        self.over = threading.Event()
        self.port = self.server_address[1]
        self.requests = []
        threading.Thread(target=self.serve_forever, kwargs={'poll_interval': 0.01}, daemon=True).start()

    def __exit__(self, *args):
        self.over.set()
        self.shutdown()
        self.server_close()


class StubIssuer(_Server):
    """Answers the n-th request with the n-th of `answers`, and every later one with the last.

    An answer is a status, the bytes to send, or a function of the handler such as `cut`.
    """

    def __init__(self, *answers, tls=None, greeting=None, ipv6=False):
        self.answers = list(answers) or [200]
        self.connections = 0
        self.tls = tls
        # What it says at once, without a request, to every connection; nothing at all if it is empty.
        self.greeting = greeting
        super().__init__(_IssuerHandler, ipv6)

    def get_request(self):
        connection, address = super().get_request()
        self.connections += 1
        return connection, address

    def finish_request(self, request, client_address):
        if self.greeting is not None:
            request.sendall(self.greeting)
            if not self.greeting:
                self.over.wait(30)
            return
        if self.tls:
            try:
                request = self.tls.wrap_socket(request, server_side=True)
            except OSError:
                return  # the client did not like the certificate
        super().finish_request(request, client_address)
        if self.tls:
            request.close()

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], OSError):  # the client may go whenever it likes
            super().handle_error(request, client_address)

    @property
    def url(self):
        scheme = 'https' if self.tls else 'http'
        return '%s://%s:%d/token/%%s/+bugtracker-handshake' % (scheme, self.host, self.port)

    @property
    def keys(self):
        return [request.headers['idempotency-key'] for request in self.requests]


class _IssuerHandler(socketserver.StreamRequestHandler):
    def handle(self):
        method, target, headers = _read_head(self.rfile)
        body = self.rfile.read(int(headers.get('content-length', 0)))
        answers, requests = self.server.answers, self.server.requests
        answer = answers[min(len(requests), len(answers) - 1)]
        requests.append(Request(method, target, headers, body))
        if isinstance(answer, int):
            answer = http(answer)
        if isinstance(answer, bytes):
            self.wfile.write(answer)
        else:
            answer(self)


class StubProxy(_Server):
    """An HTTP proxy that knows CONNECT only, or `refuses` that, too. `requests` lists the targets it was asked for."""

    def __init__(self, refuses=False):
        self.refuses = refuses
        super().__init__(_ProxyHandler)


class _ProxyHandler(socketserver.StreamRequestHandler):
    def handle(self):
        method, target, _headers = _read_head(self.rfile)
        self.server.requests.append('%s %s' % (method, target))
        if self.server.refuses or method != 'CONNECT':
            self.wfile.write(http(403))
            return
        host, _, port = target.rpartition(':')
        with socket.create_connection((host.strip('[]'), int(port))) as issuer:
            self.wfile.write(b'HTTP/1.1 200 Connection established\r\n\r\n')
            threading.Thread(target=_pump, args=(issuer, self.connection), daemon=True).start()
            _pump(self.connection, issuer)


def _pump(source, sink):
    try:
        while True:
            data = source.recv(65536)
            if not data:
                break
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # one side has closed


def _read_head(stream):
    line = stream.readline()
    if not line:
        raise ConnectionResetError('the client has gone without a question')
    method, target, _version = line.decode('ascii').split()
    headers = {}
    for line in iter(stream.readline, b'\r\n'):
        name, _, value = line.decode('ascii').partition(':')
        headers[name.lower()] = value.strip()
    return method, target, headers
