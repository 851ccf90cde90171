"""`trac-admin ENVIRONMENT launchpad …`, typed at a real environment."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from trac.config import Configuration

from real_servers import ENVIRONMENT, make_trac

AUTH_SERVER = 'https://issuer.example.org/token/%s/+bugtracker-handshake'
BASE_URL = 'https://trac.example.org/project'


class Environment:
    def __init__(self, directory):
        self.directory = directory

    def admin(self, *command):
        """The exit status of `trac-admin` and what it said."""
        done = subprocess.run([sys.executable, '-m', 'trac.admin.console', str(self.directory), *command],
                              env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.returncode, done.stdout

    def setting(self, section, name):
        return Configuration(str(self.directory / 'conf' / 'trac.ini')).get(section, name)

    def set(self, section, name, value):
        assert self.admin('config', 'set', section, name, value)[0] == 0


@pytest.fixture(scope='module')
def template(tmp_path_factory):
    directory = tmp_path_factory.mktemp('template') / 'env'
    make_trac(directory)
    Environment(directory).set('components', 'countersign_trac.*', 'enabled')
    return directory


@pytest.fixture
def environment(template, tmp_path):
    shutil.copytree(str(template), str(tmp_path / 'env'))
    return Environment(tmp_path / 'env')


def test_setup_does_all_that_an_issuer_needs(environment):
    status, said = environment.admin('launchpad', 'check')
    assert status != 0
    for lack in ('auth_server is not set', 'no field launchpad_bug', 'lacks the permission LAUNCHPAD_RPC',
                 'lacks the permission TICKET_VIEW', 'lacks the permission TICKET_APPEND'):
        assert 'FAULT' in said and lack in said

    status, said = environment.admin('launchpad', 'setup', AUTH_SERVER, BASE_URL)
    assert (status, said.splitlines()[-1]) == (0, 'An issuer can log in as launchpad and work here.')
    assert environment.setting('launchpad', 'auth_server') == AUTH_SERVER
    assert environment.setting('trac', 'base_url') == BASE_URL
    assert environment.setting('ticket-custom', 'launchpad_bug') == 'text'
    assert 'Set [trac] secure_cookies = true' in said
    permissions = environment.admin('permission', 'list', 'launchpad')[1]
    for action in ('LAUNCHPAD_RPC', 'TICKET_VIEW', 'TICKET_APPEND'):
        assert action in permissions
    assert environment.admin('launchpad', 'check')[0] == 0
    assert environment.admin('launchpad', 'setup', AUTH_SERVER)[0] == 0, 'a second time does no harm'
    assert environment.setting('trac', 'base_url') == BASE_URL


def test_setup_keeps_what_somebody_chose(environment):
    environment.set('ticket-custom', 'launchpad_bug.label', 'LP')
    environment.set('launchpad', 'user', 'robot')
    assert environment.admin('launchpad', 'setup', AUTH_SERVER, BASE_URL)[0] == 0
    assert environment.setting('ticket-custom', 'launchpad_bug.label') == 'LP'
    assert 'LAUNCHPAD_RPC' in environment.admin('permission', 'list', 'robot')[1]


def test_the_commands_of_the_readme(environment):
    README = (Path(__file__).parent.parent / 'README.md').read_text(encoding='utf-8')
    block = re.search(r'```\n(pip install .*?)```', README, re.DOTALL)[1]
    commands = [shlex.split(line) for line in block.splitlines() if line.startswith('trac-admin ENV ')]
    assert len(commands) == 2
    for command in commands:
        status, said = environment.admin(*command[2:])
        assert status == 0, said
    assert environment.admin('launchpad', 'check')[0] == 0
    [sample] = re.findall(r'```ini\n(.*?)```', README, re.DOTALL)
    for section, settings in re.findall(r'^\[(.*?)\]\n(.*?)(?=^\[|\Z)', sample, re.DOTALL | re.MULTILINE):
        for name, value in re.findall(r'^([^#\s]+) = (.*)$', settings, re.MULTILINE):
            assert environment.setting(section, name) == value, name


@pytest.mark.parametrize('arguments', [['https://issuer.example.org/token/'], [AUTH_SERVER, 'trac.example.org']])
def test_setup_changes_nothing_that_cannot_work(environment, arguments):
    status, said = environment.admin('launchpad', 'setup', *arguments)
    assert status != 0
    assert 'auth_server is not the URL of a handshake' in said or 'base_url must be' in said
    assert environment.setting('launchpad', 'auth_server') == ''


def test_check_names_what_is_risky(environment, tmp_path):
    environment.admin('launchpad', 'setup', 'http://issuer.example.org/token/%s', '')
    environment.admin('permission', 'add', 'launchpad', 'TRAC_ADMIN')
    passwords = tmp_path / 'passwords'
    passwords.write_text('launchpad:$apr1$xxxxxxxx$yyyyyyyyyyyyyyyyyyyyyy\n')
    for section, name, value in [('components', 'acct_mgr.*', 'enabled'),
                                 ('components', 'trac.web.auth.LoginModule', 'disabled'),
                                 ('account-manager', 'password_store', 'HtPasswdStore'),
                                 ('account-manager', 'htpasswd_file', str(passwords))]:
        environment.set(section, name, value)
    status, said = environment.admin('launchpad', 'check')
    assert status == 0, said
    for risk in ('auth_server is not https', 'Set [trac] base_url', 'has TRAC_ADMIN',
                 'Somebody has a password for the name launchpad'):
        assert risk in said


def test_check_finds_that_nobody_reads_sessions(environment):
    environment.admin('launchpad', 'setup', AUTH_SERVER, BASE_URL)
    environment.set('components', 'trac.web.auth.LoginModule', 'disabled')
    environment.set('launchpad', 'bug_url', 'https://launchpad.net/bugs/')
    status, said = environment.admin('launchpad', 'check')
    assert status != 0
    assert 'Nothing reads the session' in said and 'bug_url must have %s once' in said
