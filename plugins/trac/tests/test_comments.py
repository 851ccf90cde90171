"""Comments as the methods `launchpad.*` read and add them."""

import time
from datetime import timedelta

import pytest
from trac.core import Component, implements
from trac.notification.api import INotificationDistributor, INotificationSubscriber, NotificationSystem
from trac.perm import PermissionSystem
from trac.ticket.api import ITicketActionController, ITicketChangeListener, ITicketManipulator
from trac.ticket.model import Ticket

from conftest import log_of_the_plugin
from rpc_calls import LONG_AGO, call, comment, env_with_session, faulted, make_ticket


@pytest.fixture
def env(make_env):
    return env_with_session(make_env)


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
