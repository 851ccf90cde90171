"""Launchpad's own client works with a real tracd and a real Countersign, where `LAUNCHPAD_CHECKOUT` names a Launchpad."""

import json
import os
import subprocess
from pathlib import Path
from urllib.parse import urlencode

import pytest

from real_servers import ENVIRONMENT, Tracd
from test_end_to_end import binary, issuer  # noqa: F401, they are fixtures
from test_launchpad import make_tracker

RUN = Path(__file__).resolve().parents[2] / 'launchpad' / 'run'

pytestmark = pytest.mark.skipif(not os.environ.get('LAUNCHPAD_CHECKOUT'),
                                reason='LAUNCHPAD_CHECKOUT must name a checkout of Launchpad')


@pytest.fixture
def tracker(issuer, tmp_path):  # noqa: F811
    make_tracker(tmp_path / 'template', issuer.auth_server)
    with Tracd(tmp_path / 'template', tmp_path / 'env', issuer.auth_server) as trac:
        yield trac


def run(tracker, issuer, *watches, bound_to=None):  # noqa: F811
    """What Launchpad did about the bugs that it watches, in one run; its configuration can bind the tokens."""
    xmlrpc_url = issuer.private_url + '/bugs' + ('?' + urlencode({'bugtracker_url': bound_to}) if bound_to else '')
    done = subprocess.run([str(RUN), 'trac', tracker.url, xmlrpc_url], input=json.dumps({'watches': watches}),
                          env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def let_launchpad_work(tracker, issuer, *watches, bound_to=None):  # noqa: F811
    report = run(tracker, issuer, *watches, bound_to=bound_to)
    assert report['error'] is None, report
    assert [line for line in report['log'] if line.startswith(('error', 'warning'))] == []
    return report, {watch['remote_bug']: watch for watch in report['watches']}


def test_a_whole_round(tracker, issuer):  # noqa: F811
    report, watches = let_launchpad_work(
        tracker, issuer,
        {'remote_bug': '1', 'local_bug': 4711, 'push': ['Seen in Ubuntu, too. Déjà vu?']},
        {'remote_bug': '2', 'local_bug': 4712, 'checked': True},
        {'remote_bug': '3', 'local_bug': 4713, 'checked': True},
        {'remote_bug': '99', 'local_bug': 4714})
    assert (report['class'], report['syncs_comments']) == ('TracLPPlugin', True)
    assert report['logins'] == 1, 'one token, for the first call that was answered 403'

    assert watches['1']['status'] == ['fixed', 'FIXRELEASED']
    [comment] = watches['1']['imported']
    assert (comment['name'], comment['email'], comment['text']) == ('Alice Doe', 'alice@example.org', 'Oiled it. Déjà vu?')
    [pushed] = watches['1']['pushed']
    assert watches['1']['activity'] == [[None, None]], 'nothing failed'
    assert watches['2']['status'] == ['new', 'NEW'], 'it has changed since'
    assert watches['3']['status'] is None and watches['3']['activity'] == [], 'it has not'
    assert watches['99']['activity'] == [['BUG_NOT_FOUND', None]]
    assert report['links']['1'] == 4711 and report['links']['2'] == 4712 and report['links']['3'] is None

    # The next run comes without cookies; what this one did is there, and is not taken for news.
    report, watches = let_launchpad_work(tracker, issuer, {'remote_bug': '1', 'local_bug': 4711})
    assert report['logins'] == 1
    assert report['links'] == {'1': 4711}
    assert [comment['text'] for comment in watches['1']['imported']] == [
        'Oiled it. Déjà vu?', 'Bob wrote in bug 4711:\nSeen in Ubuntu, too. Déjà vu?\n']
    assert watches['1']['imported'][1]['id'] == pushed
    assert watches['1']['imported'][1]['name'] == 'launchpad'


def test_tokens_that_its_configuration_binds(tracker, issuer):  # noqa: F811
    """Launchpad as it is gives no argument; the URL that it calls says for which tracker the token is."""
    report, _ = let_launchpad_work(tracker, issuer, {'remote_bug': '2', 'local_bug': 7}, bound_to=tracker.url)
    assert report['links'] == {'2': 7}
    report = run(tracker, issuer, {'remote_bug': '2', 'local_bug': 8}, bound_to='https://another.example.org/')
    assert 'BugTrackerAuthenticationError' in report['error']


def test_a_link_to_another_bug_is_looked_at_and_replaced(tracker, issuer):  # noqa: F811
    let_launchpad_work(tracker, issuer, {'remote_bug': '2', 'local_bug': 1})
    report, _ = let_launchpad_work(tracker, issuer, {'remote_bug': '2', 'local_bug': 2})
    assert report['links'] == {'2': 2}, 'the other bug does not watch this ticket'
