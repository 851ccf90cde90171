"""What the cases of tests/verifiers leave out: threads, tasks, and what is written down."""

import asyncio
import logging
import socket
import threading
import unittest
from unittest import mock

from countersign_verifier import Refused, Unreachable, Verified, Verifier, handshake
from stub_issuer import StubIssuer, drip, http, silence

AUDIENCE = 'https://bugs.example.org/'


def verifier(stub, **settings):
    return Verifier(stub.url, **{'audience': AUDIENCE, 'timeout': 20, **settings})


def threads():
    return [thread for thread in threading.enumerate() if thread.name == 'countersign-verifier']


class VerifierTest(unittest.TestCase):
    def assert_no_thread_is_left(self):
        for thread in threads():
            thread.join(30)
            self.assertFalse(thread.is_alive(), 'the question goes on after its answer is no longer wanted')

    def test_question_ends_with_its_time(self):
        slow = drip(b'HTTP/1.1 200 A very slow status line indeed\r\n\r\n')
        with StubIssuer(slow) as stub:
            with self.assertRaisesRegex(Unreachable, 'no whole answer within 0.3 seconds'):
                verifier(stub, timeout=0.3).verify('cs1abc')
            self.assert_no_thread_is_left()

    def test_proxy_that_is_slow_is_not_waited_for(self):
        with StubIssuer(drip(b'HTTP/1.1 200 Connection established\r\n\r\n')) as slow, StubIssuer(200) as stub:
            with self.assertRaises(Unreachable):
                verifier(stub, timeout=0.3, proxy='http://127.0.0.1:%d' % slow.port).verify('cs1abc')
            self.assert_no_thread_is_left()
        self.assertEqual(stub.requests, [])

    def test_connection_that_comes_too_late_is_not_used(self):
        with StubIssuer(200) as stub:
            connection = handshake._Connection('127.0.0.1', stub.port, None, 20)
            connection.hang_up()
            outcome = handshake._exchange(connection, handshake._Question('/', 'key', ''), '127.0.0.1')
            connection.close()
        self.assertIn('nobody waits', outcome.reason)
        self.assertEqual(stub.requests, [])

    def test_name_that_is_not_found_in_time_is_not_waited_for(self):
        found, look_up = threading.Event(), socket.getaddrinfo

        def slowly(*arguments, **named):
            found.wait(30)
            return look_up(*arguments, **named)

        with StubIssuer(200) as stub, mock.patch('socket.getaddrinfo', slowly):
            with self.assertRaisesRegex(Unreachable, 'no whole answer within 0.3 seconds'):
                verifier(stub, timeout=0.3).verify('cs1abc')
            found.set()
            self.assert_no_thread_is_left()
        self.assertEqual(stub.requests, [], 'the token is not sent after its time')

    def test_cancelled_call_hangs_up(self):
        async def cancel(stub):
            call = asyncio.ensure_future(verifier(stub).verify_async('cs1abc'))
            while not stub.requests:
                await asyncio.sleep(0.01)
            call.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await call

        with StubIssuer(silence) as stub:
            asyncio.run(cancel(stub))
            self.assert_no_thread_is_left()
        self.assertEqual(len(stub.requests), 1)

    def test_calls_wait_side_by_side(self):
        everybody = threading.Barrier(10)

        def together(handler):
            everybody.wait(30)
            handler.wfile.write(http(200))

        async def ask(verifier):
            return await asyncio.gather(*(verifier.verify_async('cs1abc') for _ in range(10)))

        with StubIssuer(together) as stub:
            self.assertEqual(asyncio.run(ask(verifier(stub))), [Verified()] * 10)
        self.assertEqual(len(set(stub.keys)), 10)

    def test_flood_of_calls_has_a_limit(self):
        async def flood(verifier, stub):
            calls = [asyncio.ensure_future(verifier.verify_async('cs1abc')) for _ in range(handshake.MAX_QUESTIONS)]
            try:
                while len(stub.requests) < handshake.MAX_QUESTIONS:
                    await asyncio.sleep(0.01)
                with self.assertRaisesRegex(Unreachable, 'other questions wait'):
                    await verifier.verify_async('cs1abc')
            finally:
                for call in calls:
                    call.cancel()
                await asyncio.gather(*calls, return_exceptions=True)

        with StubIssuer(silence) as stub:
            one = verifier(stub, timeout=handshake.MAX_TIMEOUT)
            asyncio.run(flood(one, stub))
            self.assert_no_thread_is_left()
            stub.answers[:] = [200]
            self.assertEqual(one.verify('cs1abc'), Verified(), 'all places are free again')

    def test_claims_of_one_login_are_not_those_of_another(self):
        with StubIssuer(200) as stub:
            verifier(stub).verify('cs1abc').claims['run'] = 7
            self.assertEqual(verifier(stub).verify('cs1abc').claims, {})

    def test_refusal_has_its_status(self):
        with StubIssuer(403) as stub, self.assertRaisesRegex(Refused, 'HTTP 403.*another bug tracker') as raised:
            verifier(stub).verify('cs1abc')
        self.assertEqual(raised.exception.status, 403)

    def test_token_and_key_are_written_nowhere(self):
        for answer in [401, 503, 302, b'cs1abc\r\n\r\n', http(200, 'Content-Type: application/json\r\n', '"cs1abc"')]:
            with StubIssuer(answer) as stub, self.assertLogs(level=logging.DEBUG) as log:
                logging.getLogger().warning('so that there is a line')
                with self.assertRaises(Exception) as raised:
                    verifier(stub).verify('cs1abc')
            written = ' '.join([repr(raised.exception), str(raised.exception), repr(raised.exception.__context__), *log.output])
            self.assertNotIn('cs1abc', written)
            self.assertFalse(any(key in written for key in stub.keys))
        self.assertNotIn('cs1abc', repr(handshake._Question('/token/cs1abc/x', 'key', '')))

    def test_missing_audience_is_warned_about(self):
        with self.assertLogs('countersign_verifier', 'WARNING') as log:
            Verifier('https://issuer.example.org')
        self.assertIn('set the audience to the base URL', log.output[0])

    def test_insecure_way_can_be_permitted(self):
        one = Verifier('http://issuer.example.org', audience=AUDIENCE, allow_insecure_http=True)
        self.assertFalse(one.is_protected)
        self.assertTrue(Verifier('https://issuer.example.org', audience=AUDIENCE).is_protected)

    def test_settings_that_cannot_work_are_refused(self):
        for setting, wrong in [('timeout', [0, -1, 61, float('nan')]),
                               ('proxy', ['', 'proxy:3128', 'https://proxy:3128', 'http://me:secret@proxy:3128', 'http://proxy/x']),
                               ('ca_file', ['/nowhere/ca.pem', __file__])]:
            for value in wrong:
                with self.assertRaises(handshake.SetupError) as raised:
                    Verifier('https://issuer.example.org', audience=AUDIENCE, **{setting: value})
                self.assertEqual(raised.exception.setting, setting, value)
                self.assertNotIn('secret', str(raised.exception))

    def test_spellings_of_one_tracker_are_one(self):
        # Those of crates/audience.
        for given, normal in [
            ('https://trac.example.org', 'https://trac.example.org/'),
            ('https://trac.example.org//', 'https://trac.example.org/'),
            (' https://trac.example.org/\n', 'https://trac.example.org/'),
            ('HTTPS://TRAC.EXAMPLE.ORG/', 'https://trac.example.org/'),
            ('https://trac.example.org.:443/', 'https://trac.example.org/'),
            ('http://trac.example.org:80/a/', 'http://trac.example.org/a'),
            ('http://trac.example.org:8080/a', 'http://trac.example.org:8080/a'),
            ('https://trac.example.org/a/./b/../c', 'https://trac.example.org/a/c'),
            ('https://trac.example.org/%7euser/%c3%a9', 'https://trac.example.org/~user/%C3%A9'),
            ('https://trac.example.org/a%2fb', 'https://trac.example.org/a%2Fb'),
            ('https://trac.example.org/%+f', 'https://trac.example.org/%25+f'),
            ('https://trac.example.org/%%4141', 'https://trac.example.org/%25A41'),
            ('https://trac.example.org/100%', 'https://trac.example.org/100%25'),
            ('https://bücher.example/', 'https://xn--bcher-kva.example/'),
            ('http://[::1]:8000/trac', 'http://[::1]:8000/trac'),
        ]:
            self.assertEqual(handshake._normal(given), normal)
        for wrong in ['', 'trac.example.org', 'https://', 'https://./', 'ftp://trac.example.org/', 'https://a:b@trac.example.org/',
                      'https://trac.example.org/?a', 'https://trac.example.org/#a']:
            self.assertIsNone(handshake._normal(wrong), wrong)


if __name__ == '__main__':
    unittest.main()
