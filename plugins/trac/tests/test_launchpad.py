"""What Launchpad's worker does, step by step, against a real tracd and a real Countersign.

The requests and what makes an answer usable are facts, seen on the wire; `docs/trackers.md` has the same steps in its table of
what works with Launchpad. `test_own_client.py` lets Launchpad's own code do it.
"""

import re
import subprocess
import sys
import time
import xmlrpc.client
from datetime import datetime
from pathlib import Path

import pytest
from trac.env import Environment
from trac.ticket.model import Ticket
from trac.util.datefmt import utc

from real_servers import ENVIRONMENT, Client, Tracd, make_trac
from test_end_to_end import binary, issuer  # noqa: F401, they are fixtures

PAGE = Path(__file__).resolve().parents[3] / 'docs' / 'trackers.md'


def make_tracker(directory, auth_server):
    """A Trac as README.md has it made, with three tickets.

    The first has a comment of a person with a name and a mail address; the third has not changed for a long time.
    """
    make_trac(directory)
    for command in (['config', 'set', 'components', 'countersign_trac.*', 'enabled'],
                    ['launchpad', 'setup', auth_server],
                    ['permission', 'add', 'launchpad', 'EMAIL_VIEW'],
                    ['session', 'add', 'alice', 'Alice Doe', 'alice@example.org']):
        subprocess.run([sys.executable, '-m', 'trac.admin.console', str(directory)] + command,
                       env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
    env = Environment(str(directory))
    for summary, when in (('The door squeaks', None), ('The window sticks', None),
                          ('The roof leaks', datetime(2020, 2, 29, tzinfo=utc))):
        ticket = Ticket(env)
        ticket.populate({'summary': summary, 'reporter': 'alice', 'status': 'new'})
        ticket.insert(when)
    ticket = Ticket(env, 1)
    ticket['status'], ticket['resolution'] = 'closed', 'fixed'
    ticket.save_changes('alice', 'Oiled it. Déjà vu?')
    env.shutdown()


@pytest.fixture(scope='module')
def tracker(issuer, tmp_path_factory):  # noqa: F811
    template = tmp_path_factory.mktemp('template') / 'env'
    make_tracker(template, issuer.auth_server)
    with Tracd(template, tmp_path_factory.mktemp('trac') / 'env', issuer.auth_server) as trac:
        yield trac


class Transport(xmlrpc.client.Transport):
    """Sends the cookies that the login gave, as Launchpad's does, and nothing else."""

    def __init__(self, client):
        super().__init__(use_datetime=True)
        self.client = client

    def send_headers(self, connection, headers):
        super().send_headers(connection, headers)
        connection.putheader('Cookie', '; '.join('%s=%s' % (cookie.name, cookie.value) for cookie in self.client.jar))


class Worker:
    """The worker's side: it logs in on HTTP 403, and only then."""

    def __init__(self, url, new_token):
        self.url, self.new_token, self.logins, self.proxy = url, new_token, 0, None
        self.start_run()

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.proxy('close')()

    def start_run(self):
        """Cookies are kept for one run."""
        if self.proxy:
            self.proxy('close')()
        self.client = Client(self.url)
        self.proxy = xmlrpc.client.ServerProxy(self.url + '/xmlrpc', transport=Transport(self.client))

    def call(self, method, *arguments):
        try:
            return getattr(self.proxy.launchpad, method)(*arguments)
        except xmlrpc.client.ProtocolError as answer:
            assert answer.errcode == 403, answer
        self.logins += 1
        status, text = self.client.ask('/launchpad-auth/' + self.new_token())
        assert status == 200, text
        return getattr(self.proxy.launchpad, method)(*arguments)


def finds_the_plugin(worker):
    assert worker.client.ask('/launchpad-auth/check')[0] == 401
    assert not worker.client.has_session


def logs_in(worker):
    worker.call('time_snapshot')
    assert worker.logins == 1 and worker.client.has_session


def compares_the_clocks(worker):
    zone, local_time, utc_time = worker.call('time_snapshot')
    assert abs(utc_time - time.time()) < 600
    assert isinstance(zone, str) and isinstance(local_time, int)


def asks_which_bugs_have_changed(worker):
    now = int(time.time())
    _, bugs = worker.call('bug_info', 0, {'modified_since': now - 3600, 'bugs': ['1', '2', '3', '99']})
    assert [bug['id'] for bug in bugs] == ['1', '2', '99']
    _, bugs = worker.call('bug_info', 0, {'modified_since': now + 3600, 'bugs': ['1', '2']})
    assert bugs == []


def reads_statuses(worker):
    _, bugs = worker.call('bug_info', 2, {'bugs': ['1', '2', '99', 'x']})
    assert [(bug['id'], bug['status'], bug.get('resolution')) for bug in bugs] == [
        ('1', 'closed', 'fixed'), ('2', 'new', ''), ('99', 'missing', None), ('x', 'missing', None)]


def imports_comments(worker):
    [bug] = worker.call('bug_info', 2, {'bugs': ['1']})[1]
    [comment] = worker.call('get_comments', bug['comments'])[1]
    assert comment['id'] == bug['comments'][0] and isinstance(comment['id'], str)
    assert (comment['user'], comment['comment']) == ('Alice Doe <alice@example.org>', 'Oiled it. Déjà vu?')
    assert abs(comment['timestamp'] - time.time()) < 600


def adds_a_comment(worker):
    _, made = worker.call('add_comment', '2', 'Also seen in Ubuntu. Naïve?')
    [bug] = worker.call('bug_info', 2, {'bugs': ['2']})[1]
    assert made in bug['comments']
    [comment] = worker.call('get_comments', [made])[1]
    assert comment['comment'] == 'Also seen in Ubuntu. Naïve?'
    assert worker.client.ask('/ticket/2')[1].count('Also seen in Ubuntu.') >= 1, 'people see it'
    with pytest.raises(xmlrpc.client.Fault) as raised:
        worker.call('add_comment', '99', 'Hello')
    assert raised.value.faultCode == 1001


def links_its_bug(worker):
    assert worker.call('get_launchpad_bug', '2')[1] == 0
    worker.call('set_launchpad_bug', '2', 4711)
    assert worker.call('get_launchpad_bug', '2')[1] == 4711
    assert 'href="https://launchpad.net/bugs/4711"' in worker.client.ask('/ticket/2')[1], 'people can follow it'
    worker.call('set_launchpad_bug', '2', 0)
    assert worker.call('get_launchpad_bug', '2')[1] == 0
    for method, arguments in (('get_launchpad_bug', ['99']), ('set_launchpad_bug', ['99', 5])):
        with pytest.raises(xmlrpc.client.Fault) as raised:
            worker.call(method, *arguments)
        assert raised.value.faultCode == 1001


def logs_in_again(worker):
    logins = worker.logins
    worker.start_run()
    worker.call('set_launchpad_bug', '1', 4712)
    assert worker.logins == logins + 1
    worker.client.ask('/logout')
    for cookie in worker.client.jar:
        cookie.value = 'launchpad-' + '0' * 32  # a session that the Trac no longer knows
    assert worker.call('get_launchpad_bug', '1')[1] == 4712
    assert worker.logins == logins + 2


STEPS = [finds_the_plugin, logs_in, compares_the_clocks, asks_which_bugs_have_changed, reads_statuses, imports_comments,
         adds_a_comment, links_its_bug, logs_in_again]


def test_the_workers_conversation(tracker, issuer):  # noqa: F811
    with Worker(tracker.url, issuer.issue) as worker:
        for step in STEPS:
            step(worker)


def test_the_page_lists_these_steps():
    table = PAGE.read_text(encoding='utf-8').split('## What works with Launchpad')[1].split('\n## ')[0]
    rows = re.findall(r'^\| ([a-z][a-z ]+) \|', table, re.MULTILINE)
    assert rows == [step.__name__.replace('_', ' ') for step in STEPS]
