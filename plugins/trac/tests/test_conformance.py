"""The checks that every bug tracker's plugin must pass, against a real tracd: `countersign check-tracker`."""

import json
import subprocess

import pytest

from real_servers import ENVIRONMENT, Tracd, free_port
from test_end_to_end import binary, template  # noqa: F401, they are fixtures
from test_launchpad import make_tracker


API = [word for name in ('detection', 'asks-for-login', 'asks-again', 'reading', 'login', 'time', 'bug', 'status', 'missing-bug', 'comments',
                         'add-comment', 'changes', 'link') for word in ('--only', 'api-' + name)]


def findings(binary, template, env, scheme, *options):  # noqa: F811
    issuer = '127.0.0.1:%d' % free_port()
    auth_server = '%s://%s/token/%%s/+bugtracker-handshake' % (scheme, issuer)
    # A tracker is seen to give up on slow answers; two seconds are enough for that.
    with Tracd(template, env, auth_server, [('launchpad', 'timeout', '2')]) as trac:
        done = subprocess.run([binary, 'check-tracker', trac.url, '--listen', issuer, '--json', *options],
                              env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert done.stdout, done.stderr
    findings = json.loads(done.stdout)['findings']
    assert [finding for finding in findings if finding['result'] != 'pass'] == []
    assert done.returncode == 0, done.stderr
    return findings


@pytest.mark.parametrize('scheme, options, at_least', [('http', [], 30), ('https', ['--self-signed'], 1)])
def test_the_plugin_passes_every_check(binary, template, tmp_path, scheme, options, at_least):  # noqa: F811
    assert len(findings(binary, template, tmp_path / 'env', scheme, *options)) >= at_least


def test_launchpad_can_use_the_plugin_api(binary, tmp_path):  # noqa: F811
    make_tracker(tmp_path / 'template', 'http://127.0.0.1:1/token/%s/+bugtracker-handshake')
    made = findings(binary, tmp_path / 'template', tmp_path / 'env', 'http', '--api', '2', '--only', 'detection', *API)
    assert [finding['check'] for finding in made] == ['detection', *API[1::2]]
