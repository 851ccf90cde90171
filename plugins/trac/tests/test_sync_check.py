"""`countersign sync-check` sees a real tracd with tokens of a real Countersign."""

import json
import subprocess
import sys

import pytest

from real_servers import ENVIRONMENT, Tracd
from test_end_to_end import binary, issuer  # noqa: F401, they are fixtures
from test_launchpad import make_tracker


@pytest.fixture(scope='module')
def template(issuer, tmp_path_factory):  # noqa: F811
    template = tmp_path_factory.mktemp('template') / 'env'
    make_tracker(template, issuer.auth_server)
    return template


@pytest.fixture
def trac(template, issuer, tmp_path):  # noqa: F811
    with Tracd(template, tmp_path / 'env', issuer.auth_server) as trac:
        trac.admin = lambda *command: subprocess.run(
            [sys.executable, '-m', 'trac.admin.console', str(tmp_path / 'env'), *command],
            env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
        yield trac


@pytest.fixture
def sync_check(binary, issuer, trac):  # noqa: F811
    def run(bug, *options, code=0):
        done = subprocess.run([binary, 'sync-check', 'trac', trac.url, bug, '--server', issuer.private_url, *options],
                              env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert done.returncode == code, done
        return done
    return run


def test_what_launchpad_would_see(trac, sync_check):
    lines = sync_check('1').stdout.splitlines()
    assert lines[:4] == ['login     logged in to %s/ as user launchpad' % trac.url,
                         "clock     agrees with this machine's",
                         'bug       1: closed, fixed',
                         'comments  1']
    assert lines[4].endswith('  Alice Doe <alice@example.org>: Oiled it. Déjà vu?')
    assert lines[5:] == ['link      none',
                         "a login   asked for, by Launchpad's rules",
                         'comment   could be added; --write adds one']


def test_comment_is_added_only_on_demand(sync_check):
    before = json.loads(sync_check('2', '--json').stdout)
    assert (before['comments'], before['comment_can_be_added'], before['comment_added']) == ([], True, None)
    written = json.loads(sync_check('2', '--json', '--write').stdout)
    after = json.loads(sync_check('2', '--json').stdout)
    assert [comment['id'] for comment in after['comments']] == [written['comment_added']]
    assert after['comments'][0]['author'] == 'launchpad'
    assert (after['problems'], after['seconds_ahead'], after['bug']['launchpad_bug']) == ([], 0, None)


def test_missing_ticket_is_told(sync_check):
    assert 'FAILED: there is no bug 99' in sync_check('99', code=1).stdout
    assert 'is not the number of a ticket' in sync_check('door', code=2).stderr


@pytest.mark.parametrize('permission, failed', [
    ('TICKET_APPEND', 'comment   FAILED: launchpad.add_comment answers with fault 1002 (the tracker says: The user launchpad '
                      'lacks the permission TICKET_APPEND for ticket 1)'),
    ('LAUNCHPAD_RPC', 'bug       FAILED: launchpad.bug_info asks for a login (the tracker says: The user launchpad lacks the '
                      'permission LAUNCHPAD_RPC, which trac-admin can give)'),
])
def test_missing_permission_is_told(trac, sync_check, permission, failed):
    trac.admin('permission', 'remove', 'launchpad', permission)
    assert failed in sync_check('1', '--write', code=1).stdout
    assert 'FAILED' in sync_check('1', code=1).stdout
