"""What a session can do with the methods `launchpad.*`, and what it cannot."""

import io
import time
import xmlrpc.client
from datetime import datetime, timedelta, timezone

import pytest
from trac.core import Component, ComponentMeta, implements
from trac.notification.api import INotificationDistributor, INotificationSubscriber, NotificationSystem
from trac.perm import IPermissionPolicy, PermissionSystem
from trac.ticket.api import ITicketActionController, ITicketChangeListener, ITicketManipulator, TicketSystem
from trac.ticket.model import Ticket
from trac.util.datefmt import utc
from trac.web.api import IRequestHandler

from conftest import log_of_the_plugin, request
from countersign_trac import MAX_BODY, LaunchpadRPC

LONG_AGO = datetime(2020, 2, 29, 12, 0, 0, 123456, tzinfo=utc)
SESSION = 'launchpad-0123456789abcdef0123456789abcdef'


@pytest.fixture
def plugins():
    """Enable component classes for one test only."""
    registered = []
    yield registered.append
    for component in registered:
        ComponentMeta.deregister(component)


@pytest.fixture
def env(make_env):
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


class TestWhoMayCall:
    @pytest.mark.parametrize('method', ['time_snapshot', 'bug_info', 'add_comment', 'no_such_method'])
    @pytest.mark.parametrize('session', ['', 'stale', SESSION[:-1]])
    def test_without_a_session_every_call_is_403(self, env, method, session):
        response = post(env, xmlrpc.client.dumps((), 'launchpad.' + method).encode(), session)
        assert response.status == 403
        assert 'Log in with a login token first' in response.text

    def test_an_aged_session_is_403_and_removed(self, env):
        aged, now = 'launchpad-' + 'a' * 32, int(time.time())
        open_session(env, aged, opened=now - 10 * 86400 - 1)
        open_session(env, 'hers', user='alice', opened=now - 20 * 86400)
        assert post(env, xmlrpc.client.dumps((), 'launchpad.time_snapshot').encode(), aged).status == 403
        assert {cookie for cookie, in env.db_query("SELECT cookie FROM auth_cookie")} == {SESSION, 'hers'}

    def test_a_session_of_nine_days_is_good(self, env):
        open_session(env, 'launchpad-' + 'b' * 32, opened=int(time.time()) - 9 * 86400)
        assert call(env, 'time_snapshot', session='launchpad-' + 'b' * 32)

    def test_a_user_without_the_permission_is_403(self, env):
        open_session(env, 'hers', user='alice')
        PermissionSystem(env).grant_permission('alice', 'TICKET_VIEW')
        response = post(env, xmlrpc.client.dumps((), 'launchpad.time_snapshot').encode(), 'hers')
        assert response.status == 403
        assert 'alice lacks the permission LAUNCHPAD_RPC' in response.text

    def test_another_user_with_the_permission_may_call(self, env):
        open_session(env, 'hers', user='alice')
        PermissionSystem(env).grant_permission('alice', 'LAUNCHPAD_RPC')
        assert call(env, 'time_snapshot', session='hers')


class TestWhatIsCalled:
    @pytest.fixture
    def other(self, env, plugins):
        """Another plugin that takes everything at /xmlrpc and is asked first."""
        class AnotherRPC(Component):
            implements(IRequestHandler)
            calls = []

            def match_request(self, req):
                return req.path_info == '/xmlrpc'

            def process_request(self, req):
                self.calls.append(req.read())
                req.send(b'from another plugin', 'text/plain')

        plugins(AnotherRPC)
        env.enable_component(AnotherRPC)
        return AnotherRPC.calls

    def test_other_calls_are_for_other_plugins(self, env, other):
        body = xmlrpc.client.dumps((), 'ticket.query').encode()
        assert post(env, body).text == 'from another plugin'
        assert post(env, body, session='').text == 'from another plugin'
        assert request(env, '/xmlrpc').text == 'from another plugin'
        assert other[:2] == [body, body]

    def test_a_large_body_reaches_another_plugin_whole(self, env, other):
        body = xmlrpc.client.dumps(('x' * 5000000,), 'ticket.putAttachment').encode()
        assert post(env, body).text == 'from another plugin'
        assert other == [body]

    def test_launchpads_calls_are_not(self, env, other):
        assert len(call(env, 'time_snapshot')) == 3
        assert other == []

    @pytest.mark.parametrize('kind', ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data', ''])
    def test_what_a_page_can_make_a_browser_send_is_not_a_call(self, env, kind, other):
        ticket = make_ticket(env)
        body = xmlrpc.client.dumps((str(ticket.id), 'Hello'), 'launchpad.add_comment').encode()
        try:
            assert post(env, body, kind=kind).text == 'from another plugin'
        except Exception as e:
            assert 'form token' in str(e)
        assert Ticket(env, ticket.id).get_changelog() == []

    @pytest.mark.parametrize('body', [
        b'<methodCall><methodName>launchpad.time_snapshot</methodName>',
        b'<methodCall><methodName>launchpad.x</methodName><params><param><value><int>x</int></value></param></params>'
        b'</methodCall>',
        b'<methodCall><methodName>launchpad.x</methodName></member></methodCall>',
        b'<!DOCTYPE x [<!ENTITY y "z">]><methodCall><methodName>launchpad.time_snapshot</methodName></methodCall>',
        b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><methodCall><methodName>launchpad.time_snapshot</methodName></methodCall>',
        b'<?xml version="1.0" encoding="no-such"?><methodCall><methodName>launchpad.x</methodName></methodCall>',
        b'\xff<methodName>launchpad.x</methodName>',
    ])
    def test_what_is_not_xml_rpc_is_a_fault(self, env, body):
        response = post(env, body)
        assert response.status == 200
        with pytest.raises(xmlrpc.client.Fault) as raised:
            xmlrpc.client.loads(response.text)
        assert raised.value.faultCode == -32700

    def test_a_long_body_is_413(self, env):
        body = xmlrpc.client.dumps(('1', 'x' * MAX_BODY), 'launchpad.add_comment').encode()
        assert post(env, body).status == 413

    @pytest.mark.parametrize('method, arguments, code', [
        ('no_such_method', (), -32601),
        ('bug_info', (), -32602),
        ('bug_info', ('0', {}), -32602),
        ('bug_info', (True, {}), -32602),
        ('bug_info', (4, {}), -32602),
        ('bug_info', (-1, {}), -32602),
        ('bug_info', (0, []), -32602),
        ('bug_info', (0, {'bugs': '1'}), -32602),
        ('bug_info', (0, {'bugs': [{}]}), -32602),
        ('bug_info', (0, {'bugs': [True]}), -32602),
        ('bug_info', (0, {'modified_since': 'now'}), -32602),
        ('bug_info', (0, {'modified_since': True}), -32602),
        ('bug_info', (0, {'products': ['x']}), -32602),
        ('bug_info', (0, {}, 1), -32602),
        ('get_comments', ('1:1',), -32602),
        ('get_comments', ([1.5],), -32602),
        ('add_comment', ('1',), -32602),
        ('add_comment', ('1', ' \n '), -32602),
        ('add_comment', ('1', xmlrpc.client.Binary(b'x')), -32602),
        ('set_launchpad_bug', ('1', '5'), -32602),
        ('set_launchpad_bug', ('1', -5), -32602),
    ])
    def test_wrong_calls_are_faults(self, env, method, arguments, code):
        make_ticket(env)
        assert faulted(env, method, *arguments)[0] == code

    def test_a_number_that_no_database_has_is_a_fault(self, env):
        body = (b'<methodCall><methodName>launchpad.bug_info</methodName><params><param><value><int>0</int></value></param>'
                b'<param><value><struct><member><name>modified_since</name><value><int>%s</int></value></member></struct>'
                b'</value></param></params></methodCall>' % (b'9' * 30))
        with pytest.raises(xmlrpc.client.Fault):
            xmlrpc.client.loads(post(env, body).text)


class TestTime:
    def test_the_third_is_utc(self, env):
        env.config.set('trac', 'default_timezone', 'GMT +2:00')
        before = int(time.time())
        zone, local_time, utc_time = call(env, 'time_snapshot')
        assert before <= utc_time <= int(time.time())
        assert (zone, local_time) == ('GMT +2:00', utc_time + 7200)

    def test_versions(self, env):
        assert call(env, 'bugtracker_version') == ['1.6', '0.2.0', False]


class TestTickets:
    def test_ids_come_back_as_they_were_given(self, env):
        make_ticket(env)
        now, bugs = call(env, 'bug_info', 0, {'bugs': ['1', '01', 1]})
        assert abs(now - time.time()) < 60
        assert [bug['id'] for bug in bugs] == ['1', '01', '1']

    def test_level_0_is_ids_alone(self, env):
        make_ticket(env)
        assert call(env, 'bug_info', 0, {'bugs': ['1']})[1] == [{'id': '1'}]

    def test_level_1_has_the_details(self, env):
        make_ticket(env, status='closed', resolution='fixed', component='component1', owner='bob', summary='Ä\x0b<&')
        [bug] = call(env, 'bug_info', 1, {'bugs': ['1']})[1]
        assert bug == {
            'id': '1', 'status': 'closed', 'resolution': 'fixed', 'type': bug['type'], 'component': 'component1',
            'version': '', 'severity': '', 'priority': bug['priority'], 'milestone': '', 'owner': 'bob',
            'reporter': 'alice', 'summary': 'Ä\ufffd<&', 'keywords': '', 'time': int(LONG_AGO.timestamp()),
            'changetime': int(LONG_AGO.timestamp()), 'launchpad_bug': 0}

    def test_level_2_has_the_ids_of_comments(self, env):
        ticket = make_ticket(env)
        comment(ticket, 'It still does.')
        ticket['owner'] = 'carol'
        comment(ticket, '', when=LONG_AGO + timedelta(days=2))
        comment(ticket, 'Oiled.', when=LONG_AGO + timedelta(days=3))
        [bug] = call(env, 'bug_info', 2, {'bugs': ['1']})[1]
        assert bug['comments'] == ['1:1583064000123456', '1:1583236800123456'], 'a change without a text is no comment'

    def test_level_3_has_whole_comments(self, env):
        comment(make_ticket(env), 'It still does.')
        [bug] = call(env, 'bug_info', 3, {'bugs': ['1']})[1]
        assert bug['comments'] == [{'id': '1:1583064000123456', 'type': 'comment', 'user': 'alice',
                                    'comment': 'It still does.', 'timestamp': 1583064000}]

    @pytest.mark.parametrize('given', ['2', '0', 'abc', '-1', '1x', '', '99999999999999999999', '2147483648', '१'])
    @pytest.mark.parametrize('level', range(4))
    def test_an_absent_ticket_is_missing(self, env, level, given):
        make_ticket(env)
        _, bugs = call(env, 'bug_info', level, {'bugs': ['1', given]})
        assert [bug['id'] for bug in bugs] == ['1', given]
        assert bugs[1] == {'id': given, 'status': 'missing'}

    def test_only_what_changed_since(self, env):
        make_ticket(env)
        make_ticket(env, when=LONG_AGO + timedelta(days=5))
        since = int((LONG_AGO + timedelta(days=4)).timestamp())
        assert call(env, 'bug_info', 0, {'modified_since': since})[1] == [{'id': '2'}]
        assert call(env, 'bug_info', 0, {'modified_since': since, 'bugs': ['1', '2', '7']})[1] == [
            {'id': '2'}, {'id': '7', 'status': 'missing'}]
        assert call(env, 'list_bugs')[1] == ['1', '2']
        assert call(env, 'list_bugs', {'modified_since': since})[1] == ['2']

    def test_a_change_in_that_second_counts(self, env):
        make_ticket(env)
        at = int(LONG_AGO.timestamp())
        assert call(env, 'bug_info', 0, {'modified_since': at, 'bugs': ['1']})[1] == [{'id': '1'}]
        assert call(env, 'bug_info', 0, {'modified_since': at + 1, 'bugs': ['1']})[1] == []

    def test_more_ids_than_a_statement_takes(self, env):
        for _ in range(3):
            make_ticket(env)
        _, bugs = call(env, 'bug_info', 2, {'bugs': [str(number) for number in range(1, 1501)]})
        assert len(bugs) == 1500
        assert [bug['id'] for bug in bugs if bug['status'] != 'missing'] == ['1', '2', '3']

    def test_too_many_tickets_are_a_fault(self, env, monkeypatch):
        monkeypatch.setattr('countersign_trac.MAX_TICKETS', 2)
        for _ in range(3):
            make_ticket(env)
        assert len(call(env, 'bug_info', 0, {})[1]) == 3
        assert 'more than 2 tickets' in faulted(env, 'bug_info', 1, {})[1]

    def test_chosen_tickets_are_found_by_the_key(self, env):
        plans = []
        rpc = LaunchpadRPC(env)

        class Explaining:
            def db_query(self, sql, arguments):
                with env.db_transaction as db:
                    cursor = db.cursor()
                    cursor.execute('EXPLAIN QUERY PLAN ' + sql, arguments)
                    plans.extend(str(row[-1]) for row in cursor)
                return []

        real, rpc.env = rpc.env, Explaining()
        try:
            list(rpc._select(('id', 'status'), {1, 2}, 1000))
            list(rpc._comments([1, 2]))
            list(rpc._links([1, 2]))
        finally:
            rpc.env = real
        assert len(plans) >= 3
        assert [plan for plan in plans if plan.startswith('SCAN')] == []

    def test_a_ticket_that_may_not_be_seen_is_missing(self, env, plugins):
        class Secret(Component):
            implements(IPermissionPolicy)

            def check_permission(self, action, username, resource, perm):
                if resource and resource.realm == 'ticket' and resource.id == 2:
                    return False

        plugins(Secret)
        env.enable_component(Secret)
        env.config.set('trac', 'permission_policies', 'Secret, DefaultPermissionPolicy')
        make_ticket(env)
        comment(make_ticket(env), 'Nobody must know.')
        since = int(LONG_AGO.timestamp())
        for level in range(4):
            for more in ({}, {'modified_since': since}):
                assert call(env, 'bug_info', level, {'bugs': ['2'], **more})[1] == [{'id': '2', 'status': 'missing'}]
        assert call(env, 'list_bugs')[1] == ['1']
        assert call(env, 'get_comments', ['2:1583064000123456'])[1] == [{'id': '2:1583064000123456', 'type': 'missing'}]
        for method, arguments in [('get_launchpad_bug', ()), ('set_launchpad_bug', (5,)), ('add_comment', ('Hello',))]:
            assert faulted(env, method, '2', *arguments) == (1001, 'Ticket 2 does not exist.')


class TestComments:
    def user(self, env, author):
        comment(make_ticket(env), 'Hello', author=author)
        [bug] = call(env, 'bug_info', 3, {'bugs': ['1']})[1]
        return bug['comments'][0]['user']

    def test_by_id_in_the_order_asked(self, env):
        ticket = make_ticket(env)
        comment(ticket, 'One\x00')
        comment(ticket, 'Two', when=LONG_AGO + timedelta(days=2))
        first, second = call(env, 'bug_info', 2, {'bugs': ['1']})[1][0]['comments']
        asked = [second, '1:5', 'x', '1:', ':1', '9:1583064000123456', '1:' + '9' * 30, first]
        now, comments = call(env, 'get_comments', asked)
        assert [found['id'] for found in comments] == asked
        assert comments[0] == {'id': second, 'type': 'comment', 'user': 'alice', 'comment': 'Two', 'timestamp': 1583150400}
        assert comments[-1]['comment'] == 'One\ufffd'
        assert {found['type'] for found in comments[1:-1]} == {'missing'}
        assert abs(now - time.time()) < 60

    def test_an_edit_or_a_deletion_leaves_the_ids_alone(self, env):
        ticket = make_ticket(env)
        for day in (1, 2, 3):
            comment(ticket, 'Day %d' % day, when=LONG_AGO + timedelta(days=day))
        before = call(env, 'bug_info', 2, {'bugs': ['1']})[1][0]['comments']
        ticket.modify_comment(LONG_AGO + timedelta(days=3), 'alice', 'Day three')
        ticket.delete_change(cnum=1)
        assert call(env, 'bug_info', 2, {'bugs': ['1']})[1][0]['comments'] == before[1:]
        assert [found['comment'] for found in call(env, 'get_comments', before[1:])[1]] == ['Day 2', 'Day three']

    @pytest.fixture
    def alice(self, env):
        env.insert_users([('alice', 'Alice "Al" Doe', 'alice@example.org'), ('bob', None, 'bob@example.org'),
                          ('carol', 'Carol', None)])
        PermissionSystem(env).grant_permission('launchpad', 'EMAIL_VIEW')

    @pytest.mark.parametrize('author, user', [
        ('alice', '"Alice \\"Al\\" Doe" <alice@example.org>'),
        ('bob', 'bob@example.org'),
        ('carol', 'Carol <carol>'),
        ('dave', 'dave'),
        ('Jörg Ü <joerg@example.org>', 'Jörg Ü <joerg@example.org>'),
        ('eve@example.org', 'eve@example.org'),
        ('John Smith', 'John.Smith'),
        ('', 'anonymous'),
        ('anonymous', 'anonymous'),
    ])
    def test_the_author_is_name_and_mail(self, env, alice, author, user):
        assert self.user(env, author) == user

    @pytest.mark.parametrize('author, user', [
        ('alice', '"Alice \\"Al\\" Doe" <alice>'), ('bob', 'bob'), ('eve@example.org', 'eve'),
        ('Jörg Ü <joerg@example.org>', 'Jörg Ü <Jörg.Ü>'),
    ])
    def test_without_email_view_no_mail_address_is_told(self, env, alice, author, user):
        PermissionSystem(env).revoke_permission('launchpad', 'EMAIL_VIEW')
        assert self.user(env, author) == user

    def test_trac_may_show_addresses_to_everybody(self, env, alice):
        PermissionSystem(env).revoke_permission('launchpad', 'EMAIL_VIEW')
        env.config.set('trac', 'show_email_addresses', 'true')
        assert self.user(env, 'bob') == 'bob@example.org'


class TestAddingAComment:
    def test_the_ticket_has_it_from_the_sessions_user(self, env):
        make_ticket(env)
        now, made = call(env, 'add_comment', '1', 'Fixed in Ubuntu.\nReally: <b>&amp;')
        assert isinstance(made, str)
        [(when, author, field, old, new, _)] = Ticket(env, 1).get_changelog()
        assert (author, field, old, new) == ('launchpad', 'comment', '1', 'Fixed in Ubuntu.\nReally: <b>&amp;')
        assert abs(when.timestamp() - now) < 60
        assert call(env, 'bug_info', 2, {'bugs': ['1']})[1][0]['comments'] == [made]
        [read] = call(env, 'get_comments', [made])[1]
        assert (read['comment'], read['user']) == ('Fixed in Ubuntu.\nReally: <b>&amp;', 'launchpad')

    def test_a_closed_ticket_stays_closed(self, env):
        make_ticket(env, status='closed', resolution='fixed')
        call(env, 'add_comment', '1', 'Thank you.')
        assert Ticket(env, 1)['status'] == 'closed'

    def test_listeners_and_notifications_see_it(self, env, plugins):
        seen = []

        class Listener(Component):
            implements(ITicketChangeListener, INotificationSubscriber, INotificationDistributor)

            def ticket_created(self, ticket):
                pass

            def ticket_changed(self, ticket, comment, author, old_values):
                seen.append(('changed', ticket.id, comment, author))

            def ticket_deleted(self, ticket):
                pass

            def matches(self, event):
                seen.append((event.category, event.target.id, event.comment, event.author))
                return ()

            def description(self):
                return None

            default_subscriptions = requires_authentication = lambda self: ()

            def transports(self):
                return ()

        plugins(Listener)
        env.enable_component(Listener)
        make_ticket(env)
        call(env, 'add_comment', '1', 'Hello')
        assert seen == [('changed', 1, 'Hello', 'launchpad')] * 2

    def test_a_notification_that_fails_does_not_lose_the_comment(self, env, monkeypatch):
        def fail(self, event):
            raise RuntimeError('no mail server')
        monkeypatch.setattr(NotificationSystem, 'notify', fail)
        make_ticket(env)
        assert call(env, 'add_comment', '1', 'Hello')[1]
        assert 'no mail server' in ' '.join(log_of_the_plugin(env, 'ERROR'))

    def test_a_plugin_that_validates_can_refuse_it(self, env, plugins):
        class NoShouting(Component):
            implements(ITicketManipulator)

            def prepare_ticket(self, req, ticket, fields, actions):
                pass

            def validate_ticket(self, req, ticket):
                if req.args.get('comment', '').isupper():
                    yield None, 'Do not shout.'

            def validate_comment(self, req, comment):
                if 'spam' in comment:
                    yield 'No spam, please.'

        plugins(NoShouting)
        env.enable_component(NoShouting)
        make_ticket(env)
        assert faulted(env, 'add_comment', '1', 'spam') == (1003, 'No spam, please.')
        assert faulted(env, 'add_comment', '1', 'HELLO') == (1003, 'Do not shout.')
        assert Ticket(env, 1).get_changelog() == []

    def test_it_is_no_longer_than_trac_allows(self, env):
        env.config.set('ticket', 'max_comment_size', '10')
        make_ticket(env)
        assert faulted(env, 'add_comment', '1', 'x' * 11)[0] == 1003

    def test_the_workflow_has_its_say(self, env, plugins):
        class Audit(Component):
            implements(ITicketActionController)
            applied = []

            def get_ticket_actions(self, req, ticket):
                return [(0, 'leave')]

            def get_all_status(self):
                return []

            def render_ticket_action_control(self, req, ticket, action):
                return '', '', ''

            def get_ticket_changes(self, req, ticket, action):
                return {'keywords': 'touched'}

            def apply_action_side_effects(self, req, ticket, action):
                self.applied.append((ticket.id, action))

        plugins(Audit)
        env.enable_component(Audit)
        env.config.set('ticket', 'workflow', 'ConfigurableTicketWorkflow, Audit')
        make_ticket(env)
        call(env, 'add_comment', '1', 'Hello')
        assert Ticket(env, 1)['keywords'] == 'touched'
        assert Audit.applied == [(1, 'leave')]

    def test_a_workflow_without_leave_refuses_it(self, env):
        env.config.set('ticket', 'workflow', '')
        make_ticket(env)
        assert faulted(env, 'add_comment', '1', 'Hello')[0] == 1003

    def test_it_takes_ticket_append(self, env):
        PermissionSystem(env).revoke_permission('launchpad', 'TICKET_APPEND')
        make_ticket(env)
        code, text = faulted(env, 'add_comment', '1', 'Hello')
        assert code == 1002 and 'TICKET_APPEND' in text
        assert faulted(env, 'set_launchpad_bug', '1', 5)[0] == 1002
        assert Ticket(env, 1).get_changelog() == []

    def test_an_absent_ticket_is_fault_1001(self, env):
        for bug in ('1', 'abc', 1):
            assert faulted(env, 'add_comment', bug, 'Hello') == (1001, 'Ticket %s does not exist.' % bug)


class TestTheLink:
    def test_set_and_get(self, env):
        make_ticket(env)
        assert call(env, 'get_launchpad_bug', '1')[1] == 0
        call(env, 'set_launchpad_bug', '1', 12345)
        assert call(env, 'get_launchpad_bug', '1')[1] == 12345
        assert call(env, 'bug_info', 1, {'bugs': ['1']})[1][0]['launchpad_bug'] == 12345
        assert Ticket(env, 1)['launchpad_bug'] == 'https://launchpad.net/bugs/12345'
        call(env, 'set_launchpad_bug', '1', 0)
        assert call(env, 'get_launchpad_bug', '1')[1] == 0
        assert Ticket(env, 1)['launchpad_bug'] == ''

    def test_the_same_link_again_changes_nothing(self, env):
        make_ticket(env)
        call(env, 'set_launchpad_bug', '1', 12345)
        before = Ticket(env, 1).get_changelog()
        call(env, 'set_launchpad_bug', '1', 12345)
        assert Ticket(env, 1).get_changelog() == before

    def test_another_issuers_url(self, env):
        env.config.set('launchpad', 'bug_url', 'https://issuer.example.org/+bug/%s/')
        make_ticket(env)
        call(env, 'set_launchpad_bug', '1', 7)
        assert Ticket(env, 1)['launchpad_bug'] == 'https://issuer.example.org/+bug/7/'
        assert call(env, 'get_launchpad_bug', '1')[1] == 7

    @pytest.mark.parametrize('typed, number', [
        ('77', 77), (' LP #77 ', 77), ('https://bugs.launchpad.net/ubuntu/+source/trac/+bug/77', 77), ('none', 0),
        ('', 0), ('99999999999', 0), ('4294967296', 0),
    ])
    def test_what_people_type(self, env, typed, number):
        ticket = make_ticket(env)
        ticket['launchpad_bug'] = typed
        ticket.save_changes('alice', '')
        assert call(env, 'get_launchpad_bug', '1')[1] == number

    def test_an_absent_ticket_is_fault_1001(self, env):
        assert faulted(env, 'get_launchpad_bug', '1') == (1001, 'Ticket 1 does not exist.')
        assert faulted(env, 'set_launchpad_bug', '1', 5) == (1001, 'Ticket 1 does not exist.')

    def test_without_the_field_the_fault_says_how_to_make_it(self, make_env):
        env = make_env('https://issuer.example.org/token/%s')
        for action in ('LAUNCHPAD_RPC', 'TICKET_VIEW', 'TICKET_APPEND'):
            if action not in PermissionSystem(env).get_user_permissions('launchpad'):
                PermissionSystem(env).grant_permission('launchpad', action)
        open_session(env)
        make_ticket(env)
        assert call(env, 'get_launchpad_bug', '1')[1] == 0
        code, text = faulted(env, 'set_launchpad_bug', '1', 5)
        assert code == 1004 and 'launchpad setup' in text
