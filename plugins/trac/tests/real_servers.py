"""A real Countersign, a real tracd, and the worker that logs in: each a process or a client on loopback."""

import json
import os
import queue
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, ProxyHandler, Request, build_opener

from trac.config import Configuration

SECONDS_TO_START = 60
SECONDS_TO_STOP = 15

# The caller's settings must not reach the servers, nor a proxy the clients.
ENVIRONMENT = {name: value for name, value in os.environ.items()
               if not name.startswith(('COUNTERSIGN_', 'TRAC_')) and not name.lower().endswith('_proxy')}


def free_port():
    """A port from below those that the system gives out by itself: nobody else gets it before it is used."""
    while True:
        port = random.randrange(10_000, 32_768)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(('127.0.0.1', port))
            return port


class Client:
    """Something with a cookie jar that asks `base_url` for pages."""

    def __init__(self, base_url):
        self.base_url = base_url
        self.jar = CookieJar()
        self._opener = build_opener(ProxyHandler({}), HTTPCookieProcessor(self.jar))

    def ask(self, path, method='GET', body=None, form=None):
        """Return the status and the text of the answer."""
        data = None if body is None else json.dumps(body).encode('utf-8')
        if form is not None:
            data = urlencode(form).encode('utf-8')
        headers = {} if body is None else {'Content-Type': 'application/json'}
        request = Request(self.base_url + path, data=data, headers=headers, method=method)
        try:
            with self._opener.open(request, timeout=30) as answer:
                return answer.status, answer.read().decode('utf-8')
        except HTTPError as answer:
            with answer:
                return answer.code, answer.read().decode('utf-8')

    @property
    def has_session(self):
        return any(cookie.name == 'trac_auth' for cookie in self.jar)


class Process:
    """A process whose output goes to the file `log`, and which ends with the `with` block."""

    def __init__(self, arguments, log, **options):
        self.log = log
        with open(log, 'wb') as stderr:
            self._process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stderr=stderr, env=ENVIRONMENT,
                                             **options)

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.stop()

    def stop(self):
        self._process.terminate()
        try:
            self._process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def wait_until_it_listens(self, port):
        deadline = time.monotonic() + SECONDS_TO_START
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection(('127.0.0.1', port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise AssertionError('It does not listen. Its log:\n' + self.log.read_text())


class Countersign(Process):
    """A Countersign with its data in `directory`, on free ports."""

    def __init__(self, binary, directory):
        super().__init__([binary, 'serve', '--data-dir', str(directory / 'data'),
                          '--public-listen', '127.0.0.1:0', '--private-listen', '127.0.0.1:0'],
                         directory / 'countersign.log', cwd=str(directory), stdout=subprocess.PIPE, text=True)
        lines = queue.Queue()
        self._reader = threading.Thread(target=self._read, args=(lines,), daemon=True)
        self._reader.start()
        try:
            self.public_url, self.private_url = (self._address(lines, name) for name in ('public', 'private'))
        except BaseException:
            self.stop()
            raise
        self._private = Client(self.private_url)

    def _read(self, lines):
        for line in self._process.stdout:
            lines.put(line)
        lines.put('')

    def _address(self, lines, name):
        try:
            line = lines.get(timeout=SECONDS_TO_START)
        except queue.Empty:
            line = ''
        if not line.startswith(name + ' http'):
            raise AssertionError('Countersign did not say where its %s listener is, but %r. Its log:\n%s'
                                 % (name, line, self.log.read_text()))
        return line.split()[1]

    def stop(self):
        # The reader ends when the process does; only then may its pipe be closed.
        self._process.terminate()
        self._reader.join(SECONDS_TO_STOP)
        super().stop()

    @property
    def auth_server(self):
        return self.public_url + '/token/%s/+bugtracker-handshake'

    def issue(self, **wishes):
        """A new token; `audience` and `ttl` (in seconds) can be wished for."""
        status, text = self._private.ask('/v1/tokens', 'POST', wishes)
        assert status == 201, text
        return json.loads(text)['token_id']

    def status(self, token):
        status, text = self._private.ask('/v1/tokens/' + token)
        assert status == 200, text
        return json.loads(text)['status']

    def id(self, token):
        """What events call a token."""
        status, text = self._private.ask('/v1/tokens/' + token)
        assert status == 200, text
        return json.loads(text)['id']

    def wait_for_event(self, token, kind):
        """Wait until there is an event of this kind about a token."""
        path = '/v1/events?kind=%s&id=%s' % (kind, self.id(token))
        deadline = time.monotonic() + SECONDS_TO_STOP
        while True:
            status, text = self._private.ask(path)
            assert status == 200, text
            if json.loads(text)['events']:
                return
            assert time.monotonic() < deadline, text
            time.sleep(0.02)

    def revoke(self, token):
        status, text = self._private.ask('/v1/tokens/' + token, 'DELETE')
        assert (status, json.loads(text)) == (200, {'revoked': True})


def make_trac(directory):
    """Make a Trac environment where one user, `launchpad`, may see the wiki and nobody else may see anything."""
    for command in (['initenv', 'Project', 'sqlite:db/trac.db'],
                    ['permission', 'remove', 'anonymous', '*'],
                    ['permission', 'remove', 'authenticated', '*'],
                    ['permission', 'add', 'launchpad', 'WIKI_VIEW']):
        subprocess.run([sys.executable, '-m', 'trac.admin.console', str(directory)] + command,
                       env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)


class Tracd(Process):
    """tracd on a free port, serving a copy of the environment `template` that believes the issuer `auth_server`."""

    def __init__(self, template, directory, auth_server, more_settings=(), plugin=None):
        shutil.copytree(str(template), str(directory))
        if plugin:
            shutil.copy(str(plugin), str(directory / 'plugins'))
        port = free_port()
        self.url = 'http://127.0.0.1:%d' % port
        self.trac_log = directory / 'log' / 'trac.log'
        config = Configuration(str(directory / 'conf' / 'trac.ini'))
        for section, name, value in [('components', 'countersign_trac.*', 'enabled'),
                                     ('trac', 'base_url', self.url),
                                     ('launchpad', 'auth_server', auth_server),
                                     ('logging', 'log_type', 'file'), ('logging', 'log_level', 'INFO'),
                                     *more_settings]:
            config.set(section, name, value)
        config.save()
        super().__init__([sys.executable, '-m', 'trac.web.standalone', '-s', '-b', '127.0.0.1', '-p', str(port),
                          str(directory)], directory / 'tracd.log', stdout=subprocess.DEVNULL)
        try:
            self.wait_until_it_listens(port)
        except BaseException:
            self.stop()
            raise


class HostileTrac(Tracd):
    """A Trac that brings each token it is given to `victim`, to be the issuer there."""

    def __init__(self, template, directory, victim, page):
        super().__init__(template, directory, auth_server='', plugin=Path(__file__).with_name('hostile_plugin.py'),
                         more_settings=[('components', 'countersign_trac.*', 'disabled'),
                                        ('hostile', 'victim', victim), ('hostile', 'page', page)])

    def receive(self, token):
        """A worker logs in here with `token`: what the victim answered, to the login and to a request for the page."""
        status, loot = Client(self.url).ask('/launchpad-auth/' + token)
        assert status == 200, loot
        loot = json.loads(loot)
        return loot['login'], loot['page']
