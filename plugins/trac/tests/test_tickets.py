"""Tickets as the methods `launchpad.*` show them, and their link to a bug of the issuer."""

import time
from datetime import timedelta

import pytest
from trac.core import Component, implements
from trac.perm import IPermissionPolicy, PermissionSystem
from trac.ticket.model import Ticket

from countersign_trac import LaunchpadRPC
from rpc_calls import LONG_AGO, call, comment, env_with_session, faulted, make_ticket, open_session


@pytest.fixture
def env(make_env):
    return env_with_session(make_env)


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
