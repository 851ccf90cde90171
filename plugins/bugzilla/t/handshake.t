#!/usr/bin/perl -T
# SPDX-License-Identifier: MIT OR Apache-2.0

# The question put to the issuer: which tokens and URLs may be asked about, and what counts as a yes.

use 5.14.0;
use strict;
use warnings;

use lib 't/lib';

use Scalar::Util qw(tainted);
use Test::More;

use Bugzilla;
use Bugzilla::Extension::Launchpad::Handshake qw(auth_server_error clean_token handshake_url redeem);
use StubIssuer;

use constant TOKEN => 'cs1abcdefghijklmnopqrstuvwxyz234567';

# What the environment brought in is tainted, and so is what it is joined with.
sub tainted_copy { return substr($ENV{PATH}, 0, 0) . $_[0] }

sub ask {
  my ($url, %more) = @_;
  return redeem(
    url      => handshake_url($url, TOKEN),
    token    => TOKEN,
    audience => 'http://bugs.example.org/?a=1&b= ü',
    key      => 'KeyOfThisLogin',
    timeout  => 5,
    proxy    => '',
    %more,
  );
}

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

subtest 'handshake URL templates' => sub {
  for my $good ('https://launchpad.net/token/%s/+bugtracker-handshake', 'http://127.0.0.1:8080/token/%s/%2Bbugtracker-handshake',
    'http://[::1]:8080/%s', 'https://issuer.example.org/handshake?token=%s')
  {
    is auth_server_error($good), '', $good;
  }
  for my $bad (
    '',                                     'launchpad.net/token/%s',      'ftp://launchpad.net/token/%s',
    'https://launchpad.net/token/',         'https://launchpad.net/%s/%s', 'https://%s.launchpad.net/token',
    'https://%s.launchpad.net/token/%s',    'https://me@launchpad.net/%s', 'https://launchpad.net',
    'https://launchpad.net/token/%s#there', 'https://launchpad.net/ %s',   "https://launchpad.net/%s\n",
    'https://launchpad.net/%s/%d',          'https://launchpad.net/%s/%%',
    )
  {
    like auth_server_error($bad), qr/^(must|may) .*[^.]$/, "refused: $bad";
    is handshake_url($bad, TOKEN), undef, '... and gives no URL';
  }
  is handshake_url(undef, TOKEN), undef, 'an unset one gives no URL';
  is handshake_url('https://launchpad.net/token/%s/%2Bhandshake', 'abc'), 'https://launchpad.net/token/abc/%2Bhandshake',
    'the token takes the place of %s';
};

subtest 'the request' => sub {
  my $issuer = StubIssuer->start('200');
  is_deeply [ask($issuer->url)], [accepted => 'HTTP 200'], 'accepted';

  my ($request, @more) = $issuer->requests;
  is @more, 0, 'asked once';
  is $request->{line}, "POST /token/${\TOKEN}/+bugtracker-handshake HTTP/1.1", 'a POST to the handshake URL';
  is $request->{body}, 'audience=http%3A%2F%2Fbugs.example.org%2F%3Fa%3D1%26b%3D+%C3%BC', 'states the audience';
  is $request->{headers}->{'content-type'},    'application/x-www-form-urlencoded', 'as a form';
  is $request->{headers}->{'idempotency-key'}, 'KeyOfThisLogin',                    'with its key';
};

subtest 'exactly 200 means yes' => sub {
  my %verdict = (
    (map { $_ => 'unreachable' } 201, 202, 204, 206, 301, 302, 303, 307, 308),
    (map { $_ => 'refused' } 400, 401, 403, 404, 405, 410, 429),
  );
  for my $status (sort keys %verdict) {
    my $issuer = StubIssuer->start($status);
    is_deeply [ask($issuer->url)], [$verdict{$status} => "HTTP $status"], "$status: $verdict{$status}";
    is scalar($issuer->requests), 1, '... asked once, and nobody else';
  }
};

subtest 'a lost or failed answer is asked for once more' => sub {
  for my $first ('cut', '500', '502', '503', '504') {
    my $issuer = StubIssuer->start($first, '200');
    is_deeply [ask($issuer->url)], [accepted => 'HTTP 200'], "$first, then 200: accepted";
    my @requests = $issuer->requests;
    is @requests, 2, '... asked twice';
    is_deeply $requests[0], $requests[1], '... with the same key, token and audience';
  }

  my $issuer = StubIssuer->start('cut', '401');
  is_deeply [ask($issuer->url)], [refused => 'HTTP 401'], 'the second answer counts';

  for my $always ('500', '503') {
    my $issuer = StubIssuer->start($always);
    is_deeply [ask($issuer->url)], [unreachable => "HTTP $always"], "$always twice: unreachable";
    is scalar($issuer->requests), 2, '... asked no third time';
  }
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

  my @answer = ask(StubIssuer->start('200')->url, proxy => '//proxy.example.org/');
  is_deeply \@answer, [unreachable => 'the parameter proxy_url is not a URL'], 'a proxy that is no URL';
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
  local *Bugzilla::Extension::Launchpad::Handshake::_ask = sub { die "lost \e ${\TOKEN}\r\nand more" };
  is_deeply [ask('http://127.0.0.1/%s')], [unreachable => 'lost ? [token]'], 'nor more than one plain line';
};

subtest 'proxies' => sub {
  my $proxy = StubIssuer->start('200');
  my $url   = 'http://issuer.invalid/token/%s/+bugtracker-handshake';
  is_deeply [ask($url, proxy => "http://127.0.0.1:${\$proxy->port}/")], [accepted => 'HTTP 200'], 'through the proxy';
  my ($request) = $proxy->requests;
  like $request->{line}, qr{^POST http://issuer\.invalid/token/}, '... which was given the whole URL';
  is $request->{headers}->{host}, 'issuer.invalid', '... and the name of the issuer';
  is $request->{headers}->{'proxy-authorization'}, undef, '... and no password';

  $proxy = StubIssuer->start('200');
  ask($url, proxy => "http://me:s%20cret\@127.0.0.1:${\$proxy->port}/");
  is +($proxy->requests)[0]->{headers}->{'proxy-authorization'}, 'Basic bWU6cyBjcmV0', 'a password for the proxy';

  local @ENV{qw(http_proxy HTTP_PROXY CGI_HTTP_PROXY)} = ("http://127.0.0.1:${\StubIssuer->closed_port}/") x 3;
  local $ENV{PERL_LWP_ENV_PROXY} = 1;
  my $issuer = StubIssuer->start('200');
  is_deeply [ask($issuer->url)], [accepted => 'HTTP 200'], 'a proxy of the environment is not used';
};

done_testing;
