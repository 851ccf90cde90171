#!/usr/bin/perl -T
# SPDX-License-Identifier: MIT OR Apache-2.0

# What the cases of tests/verifiers in Countersign's repository leave out.

use 5.14.0;
use strict;
use warnings;
use utf8;

use FindBin;
use lib map { /\A(.+)\z/ } "$FindBin::Bin/lib";

use Scalar::Util qw(tainted);
use Test::More;

use Countersign::Verifier;
use StubIssuer;

use constant TOKEN => 'cs1abcdefghijklmnopqrstuvwxyz234567';

# What the environment brought in is tainted, and so is what it is joined with.
sub tainted_copy { return substr($ENV{PATH}, 0, 0) . $_[0] }

sub ask {
  my ($url, %more) = @_;
  my $result = Countersign::Verifier->new(issuer => $url, audience => 'http://bugs.example.org/a&b/ü', timeout => 5, %more)->verify(TOKEN);
  is !!$result, $result->outcome eq 'accepted', 'true if, and only if, it is a yes';
  return ($result->outcome, $result->reason);
}

sub clean_token { return Countersign::Verifier->clean_token(@_) }

subtest 'tokens' => sub {
  local $SIG{__WARN__} = sub { fail "no warning: @_" };
  is clean_token($_), $_, "accepted: " . substr($_, 0, 20) for 'a', 'Z9', TOKEN, 'x' x 4096;

  my %bad = (
    'undefined'         => undef,
    'empty'             => '',
    'a path'            => '../+index',
    'a slash'           => 'abc/def',
    'an encoded slash'  => 'abc%2Fdef',
    'a final newline'   => "abc\n",
    'an inner newline'  => "abc\ndef",
    'a NUL'             => "abc\0",
    'a dash'            => 'abc-def',
    'a space'           => ' abc',
    'a letter of Latin' => "abc\x{e4}",
    'a digit of Arabic' => "abc\x{661}",
    'too long'          => 'x' x 4097,
    'an array'          => ['abc'],
    'a struct'          => {abc => 1},
    'an object'         => bless(\(my $text = 'abc'), 'Some::Class'),
  );
  is clean_token($bad{$_}), undef, "refused: $_" for sort keys %bad;

  my $raw = tainted_copy(TOKEN);
  ok tainted($raw), 'taint mode is on';
  ok !tainted(clean_token($raw)), 'a clean token is not tainted';
};

subtest 'settings that cannot work' => sub {
  my %bad = (
    issuer => [
      '',                                     'launchpad.net/token/%s',      'ftp://launchpad.net/token/%s',
      'https://launchpad.net/%s/%s',          'https://%s.launchpad.net/token',
      'https://%s.launchpad.net/token/%s',    'https://me:secret@launchpad.net/%s', 'https://launchpad.net/?token=%s',
      'https://launchpad.net/token/%s#there', 'https://launchpad.net/ %s',   "https://launchpad.net/%s\nX",
      'https://launchpad.net/%s/%d',          'https://launchpad.net/%s/%%', 'https://launchpad.net/%s/..', 'https://launchpad.net:0/%s',
      'https://launchpad..net/%s', 'https://' . 'a' x 200 . '!/%s',            'http://launchpad.net/%s',
    ],
    audience => ['', 'bugs.example.org', 'https://', 'https://bugs.example.org/?a', 'https://me:secret@bugs.example.org/', 'https://a/b c'],
    timeout  => [0, -1, 61, 'nan', 'inf', '', "5\n5"],
    proxy    => ['', 'proxy:3128', 'https://proxy:3128', 'http://proxy/x', '//proxy.example.org/'],
    ca_file  => ['/nowhere/ca.pem'],
    audiense => ['https://bugs.example.org/'],
  );
  for my $name (sort keys %bad) {
    for my $value (@{$bad{$name}}) {
      ok !eval { Countersign::Verifier->new(issuer => 'https://launchpad.net', $name => $value) }, "$name: $value";
      like $@, qr/$name/, '... and the error names it';
      unlike $@, qr/secret|at .* line/, '... and nothing else';
    }
  }
  ok +Countersign::Verifier->new(issuer => 'http://launchpad.net', allow_insecure_http => 1), 'http can be permitted';
};

subtest 'the request' => sub {
  my $issuer = StubIssuer->start('200');
  is_deeply [ask($issuer->url)], [accepted => 'HTTP 200'], 'accepted';

  my ($request, @more) = $issuer->requests;
  is @more, 0, 'asked once';
  is $request->{line}, "POST /token/${\TOKEN}/+bugtracker-handshake HTTP/1.1", 'a POST to the handshake URL';
  is $request->{body}, 'audience=http%3A%2F%2Fbugs.example.org%2Fa%26b%2F%C3%BC', 'states the audience';
  is $request->{headers}->{'content-type'},    'application/x-www-form-urlencoded', 'as a form';
  like $request->{headers}->{'idempotency-key'}, qr/\A[0-9a-f]{32}\z/, 'with its key';
};

subtest 'no answer' => sub {
  my ($verdict, $reason) = ask(StubIssuer->start('cut')->url);
  is $verdict, 'unreachable', 'a connection cut twice';

  ($verdict, $reason) = ask("http://127.0.0.1:${\StubIssuer->closed_port}/%s");
  is $verdict, 'unreachable', 'nobody listens';
  like $reason, qr/refused/i, '... and the reason says so';

  my $issuer = StubIssuer->start('silent');
  ($verdict, $reason) = ask($issuer->url, timeout => 0.2);
  is $verdict, 'unreachable', 'an issuer that says nothing';
  like $reason, qr/timeout/i, '... and the reason says so';
  is scalar($issuer->requests), 2, '... was asked twice';
};

subtest 'a name that is not found in time' => sub {
  no warnings 'redefine';
  local *Countersign::Verifier::getaddrinfo = sub { sleep 60; return 'too late' };
  my $before = time;
  is_deeply [ask('http://issuer.localhost', timeout => 0.3)], [unreachable => "timeout: the host's name was not found in time"],
    'is not waited for';
  cmp_ok time - $before, '<', 30, '... and its process is not, either';
  is waitpid(-1, 0), -1, '... and no process is left';

  local *Countersign::Verifier::getaddrinfo = sub { return 'No such name' };
  is_deeply [ask('http://issuer.localhost')], [unreachable => 'issuer.localhost: No such name'], 'one that is not found';
};

subtest 'what is not HTTP is not a yes' => sub {
  for my $behaviour ('echo', 'half a status') {
    my $issuer = StubIssuer->start($behaviour);
    is_deeply [ask($issuer->url)], [unreachable => 'the answer was not HTTP'], $behaviour;
    is scalar($issuer->requests), 2, '... asked twice';
  }
};

subtest 'an answer that takes too long in all is not believed' => sub {
  for my $behaviour ('slow status', 'slow headers', 'slow continue', 'continue without end') {
    my $issuer = StubIssuer->start($behaviour);
    is_deeply [ask($issuer->url, timeout => 0.3)], [unreachable => 'timeout: no whole answer in time'], $behaviour;
    is scalar($issuer->requests), 2, '... asked twice';
  }
};

subtest 'what comes before and after the answer' => sub {
  is_deeply [ask(StubIssuer->start('continue')->url)], [accepted => 'HTTP 200'], '100 and 103 are not it';
  is_deeply [ask(StubIssuer->start('endless body')->url)], [accepted => 'HTTP 200'], 'a body is not read';
  is_deeply [ask(StubIssuer->start('long headers')->url)], [unreachable => 'the headers of the answer are too long'],
    'headers have an end';
};

subtest 'the reason never holds the token' => sub {
  no warnings 'redefine';
  local *Countersign::Verifier::_ask = sub { die "lost \e ${\TOKEN}\r\nand more" };
  is_deeply [ask('http://127.0.0.1/%s')], [unreachable => 'lost ? [token]'], 'nor more than one plain line';
};

subtest 'a caller keeps its own error' => sub {
  my $issuer = StubIssuer->start('cut');
  eval { die "the caller's\n" };
  ask($issuer->url);
  is $@, "the caller's\n", 'in $@';
};

subtest 'a proxy with a password' => sub {
  my $proxy = StubIssuer->start('403');
  is_deeply [ask('http://127.0.0.1:1', proxy => "http://me:s%20cret\@127.0.0.1:${\$proxy->port}/")],
    [unreachable => 'the proxy answered HTTP 403'], 'refuses';
  my ($request) = $proxy->requests;
  is $request->{line}, 'CONNECT 127.0.0.1:1 HTTP/1.1', 'and was asked to connect';
  is $request->{headers}->{'proxy-authorization'}, 'Basic bWU6cyBjcmV0', '... with its password';
};

done_testing;
