"""The methods `launchpad.*` as a test calls them, and a Trac with tickets to call them at."""

import time
import xmlrpc.client
from datetime import datetime, timedelta

import pytest
from trac.perm import PermissionSystem
from trac.ticket.api import TicketSystem
from trac.ticket.model import Ticket
from trac.util.datefmt import utc

from conftest import request

LONG_AGO = datetime(2020, 2, 29, 12, 0, 0, 123456, tzinfo=utc)
SESSION = 'launchpad-0123456789abcdef0123456789abcdef'


def env_with_session(make_env):
    """A Trac in which the user `launchpad` may call the methods and has a session."""
    env = make_env('https://issuer.example.org/token/%s')
    for name, value in (('launchpad_bug', 'text'), ('launchpad_bug.label', 'Launchpad bug'),
                        ('launchpad_bug.format', 'wiki')):
        env.config.set('ticket-custom', name, value)
    TicketSystem(env).reset_ticket_fields()
    permissions = PermissionSystem(env)
    for user in ('anonymous', 'authenticated'):
        for action in permissions.get_user_permissions(user):
            try:
                permissions.revoke_permission(user, action)
            except Exception:
                pass  # granted by way of another one
    for action in ('LAUNCHPAD_RPC', 'TICKET_VIEW', 'TICKET_APPEND'):
        permissions.grant_permission('launchpad', action)
    open_session(env)
    return env


def open_session(env, cookie=SESSION, user='launchpad', opened=None):
    env.db_transaction("INSERT INTO auth_cookie (cookie, name, ipnr, time) VALUES (%s, %s, '', %s)",
                       (cookie, user, int(time.time()) if opened is None else opened))


def post(env, body, session=SESSION, kind='text/xml', **environ):
    return request(env, '/xmlrpc', 'POST', 'trac_auth=' + session if session else '', body=body,
                   CONTENT_TYPE=kind, **environ)


def call(env, method, *arguments, session=SESSION):
    """The result of `launchpad.method`; a fault is raised."""
    response = post(env, xmlrpc.client.dumps(arguments, 'launchpad.' + method).encode('utf-8'), session)
    assert response.status == 200, response.text
    assert response.headers['content-type'] == 'text/xml;charset=utf-8'
    assert 'no-store' in response.headers['cache-control']
    assert response.cookies == []
    [result], _ = xmlrpc.client.loads(response.text)
    return result


def faulted(env, method, *arguments, session=SESSION):
    with pytest.raises(xmlrpc.client.Fault) as raised:
        call(env, method, *arguments, session=session)
    return raised.value.faultCode, raised.value.faultString


def make_ticket(env, when=LONG_AGO, **values):
    ticket = Ticket(env)
    ticket.populate({'summary': 'Door squeaks', 'reporter': 'alice', 'status': 'new', **values})
    ticket.insert(when)
    return ticket


def comment(ticket, text, author='alice', when=None):
    ticket.save_changes(author, text, when or LONG_AGO + timedelta(days=1))
