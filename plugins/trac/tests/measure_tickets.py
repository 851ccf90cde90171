"""How long the calls of Launchpad's worker take in a Trac with many tickets: `python tests/measure_tickets.py [TICKETS]`.

It makes a real environment with SQLite, in which each ticket has two kilobytes of description and two comments, and asks it
through Trac's own dispatcher. No time is asserted; README.md has the results.
"""

import sys
import tempfile
import time
import xmlrpc.client
from pathlib import Path

from trac.config import Configuration
from trac.env import open_environment
from trac.perm import PermissionSystem

from conftest import request
from real_servers import make_trac

SESSION = 'launchpad-' + '0' * 32
CALLS = [
    ('1000 tickets, those changed since', 'bug_info', 0, {'modified_since': None, 'bugs': 1000}),
    ('1000 tickets with their comments\' ids', 'bug_info', 2, {'bugs': 1000}),
    ('all tickets changed since', 'bug_info', 0, {'modified_since': None}),
    ('one ticket with its comments\' ids', 'bug_info', 2, {'bugs': 1}),
]


def main(tickets):
    with tempfile.TemporaryDirectory() as directory:
        make_trac(Path(directory) / 'env')
        config = Configuration(str(Path(directory) / 'env' / 'conf' / 'trac.ini'))
        config.set('components', 'countersign_trac.*', 'enabled')
        config.set('launchpad', 'auth_server', 'https://issuer.example.org/token/%s')
        config.save()
        env = open_environment(str(Path(directory) / 'env'))
        for action in ('LAUNCHPAD_RPC', 'TICKET_VIEW'):
            PermissionSystem(env).grant_permission('launchpad', action)
        now = int(time.time())
        step = 1000000
        with env.db_transaction as db:
            db("INSERT INTO auth_cookie (cookie, name, ipnr, time) VALUES (%s, 'launchpad', '', %s)", (SESSION, now))
            db.executemany("INSERT INTO ticket (id, time, changetime, status, summary, description, reporter) "
                           "VALUES (%s, %s, %s, 'new', 'It squeaks', %s, 'alice')",
                           [(n, n * step, n * step, 'x' * 2000) for n in range(1, tickets + 1)])
            db.executemany("INSERT INTO ticket_change (ticket, time, author, field, oldvalue, newvalue) "
                           "VALUES (%s, %s, 'alice', 'comment', %s, 'It still does.')",
                           [(n, n * step + change, str(change)) for n in range(1, tickets + 1) for change in (1, 2)])
        for name, method, level, criteria in CALLS:
            criteria = dict(criteria)
            if 'bugs' in criteria:
                criteria['bugs'] = [str(1 + n * tickets // criteria['bugs']) for n in range(criteria['bugs'])]
            if 'modified_since' in criteria:
                criteria['modified_since'] = tickets - tickets // 100  # one in a hundred has changed
            body = xmlrpc.client.dumps((level, criteria), 'launchpad.' + method).encode()
            times = []
            for _ in range(5):
                start = time.perf_counter()
                answer = request(env, '/xmlrpc', 'POST', 'trac_auth=' + SESSION, body=body, CONTENT_TYPE='text/xml')
                times.append(time.perf_counter() - start)
            bugs = xmlrpc.client.loads(answer.text)[0][0][1]
            print('%-40s %6d of %d tickets in %.0f ms (best of five)' % (name, len(bugs), tickets, min(times) * 1000))
        env.shutdown()


if __name__ == '__main__':
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100000)
