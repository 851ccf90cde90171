"""What docs/trackers.md has a newcomer type, typed."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

from real_servers import ENVIRONMENT, Process, free_port
from test_end_to_end import binary, issuer  # noqa: F401, they are fixtures

PAGE = Path(__file__).resolve().parents[3] / 'docs' / 'trackers.md'
MODULES = {'trac-admin': 'trac.admin.console', 'tracd': 'trac.web.standalone'}


def commands():
    """The commands of the block, without those that make the Python environment, which the tests have already."""
    section = PAGE.read_text().split('### A Trac to try it with')[1]
    block = re.search(r'```sh\n(.*?)```', section, re.DOTALL)[1]
    return [line for line in block.splitlines() if line.split()[0] in MODULES]


def test_a_trac_to_try_it_with(binary, issuer, tmp_path):  # noqa: F811
    port = free_port()

    def typed(command):
        for said, meant in [('/tmp/try', str(tmp_path)), ('127.0.0.1:8000', '127.0.0.1:%d' % port),
                            ('--port 8000', '--port %d' % port), ('http://127.0.0.1:8080', issuer.public_url)]:
            command = command.replace(said, meant)
        program, *arguments = shlex.split(command)
        return [sys.executable, '-m', MODULES[program], *arguments]

    *settings, start = commands()
    assert len(settings) > 2 and start.startswith('tracd ')
    for command in settings:
        subprocess.run(typed(command), env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
    with Process(typed(start), tmp_path / 'tracd.log', stdout=subprocess.DEVNULL) as tracd:
        tracd.wait_until_it_listens(port)
        done = subprocess.run([binary, 'login', 'trac', 'http://127.0.0.1:%d/env' % port, '--server', issuer.private_url],
                              env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    assert 'as user launchpad' in done.stderr
