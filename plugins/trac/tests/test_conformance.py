"""The checks that every bug tracker's plugin must pass, against a real tracd: `countersign check-tracker`."""

import json
import subprocess

import pytest

from real_servers import ENVIRONMENT, Tracd, free_port
from test_end_to_end import binary, template  # noqa: F401, they are fixtures


@pytest.mark.parametrize('scheme, options, at_least', [('http', [], 30), ('https', ['--self-signed'], 1)])
def test_the_plugin_passes_every_check(binary, template, tmp_path, scheme, options, at_least):  # noqa: F811
    issuer = '127.0.0.1:%d' % free_port()
    auth_server = '%s://%s/token/%%s/+bugtracker-handshake' % (scheme, issuer)
    # A tracker is seen to give up on slow answers; two seconds are enough for that.
    with Tracd(template, tmp_path / 'env', auth_server, [('launchpad', 'timeout', '2')]) as trac:
        done = subprocess.run([binary, 'check-tracker', trac.url, '--listen', issuer, '--json', *options],
                              env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert done.stdout, done.stderr
    findings = json.loads(done.stdout)['findings']
    assert len(findings) >= at_least
    assert [finding for finding in findings if finding['result'] != 'pass'] == []
    assert done.returncode == 0, done.stderr
