"""The checks that every bug tracker's plugin must pass, against a real tracd: `countersign check-tracker`."""

import json
import socket
import subprocess

from real_servers import ENVIRONMENT, Tracd
from test_end_to_end import binary, template  # noqa: F401, they are fixtures


def test_the_plugin_passes_every_check(binary, template, tmp_path):  # noqa: F811
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        issuer = '127.0.0.1:%d' % probe.getsockname()[1]
    with Tracd(template, tmp_path / 'env', 'http://%s/token/%%s/+bugtracker-handshake' % issuer) as trac:
        done = subprocess.run([binary, 'check-tracker', trac.url, '--listen', issuer, '--json'], env=ENVIRONMENT,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert done.stdout, done.stderr
    findings = json.loads(done.stdout)['findings']
    assert len(findings) > 20
    assert [finding for finding in findings if finding['result'] != 'pass'] == []
    assert done.returncode == 0, done.stderr
