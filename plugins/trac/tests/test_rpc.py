"""What a session can call of the methods `launchpad.*`, and what it cannot."""

import time
import xmlrpc.client

import pytest
from trac.core import Component, implements
from trac.perm import PermissionSystem
from trac.ticket.model import Ticket
from trac.web.api import IRequestHandler

from conftest import request
from countersign_trac import MAX_BODY
from rpc_calls import SESSION, call, env_with_session, faulted, make_ticket, open_session, post


@pytest.fixture
def env(make_env):
    return env_with_session(make_env)


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
