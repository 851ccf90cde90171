#!/usr/bin/perl -T
# SPDX-License-Identifier: MIT OR Apache-2.0

# Launchpad.login: what it gives, what it refuses, and what it leaves behind.

use 5.14.0;
use strict;
use warnings;

use lib 't/lib', '../../verifiers/perl/t/lib';

use Test::More;

use Bugzilla;
use Bugzilla::Extension::Launchpad::WebService;
use StubIssuer;

use constant TOKEN => 'cs1abcdefghijklmnopqrstuvwxyz234567';

my ($params, $issuer, @log);
$SIG{__WARN__} = sub { push @log, @_ };

# A fresh installation with a fresh issuer.
sub installation {
  my ($script, %changes) = @_;
  Bugzilla::reset_stub();
  $issuer = StubIssuer->start(@$script);
  %Bugzilla::params = (%Bugzilla::params, launchpad_auth_server => $issuer->url, %changes);
  @log    = ();
  $params = {Bugzilla_token => substr($ENV{PATH}, 0, 0) . TOKEN};
}

# (result, undef) or (undef, fault). As in Bugzilla, `token` has become `Bugzilla_token` by now, and is tainted.
sub login {
  my $result = eval { Bugzilla::Extension::Launchpad::WebService->login($params) };
  return ($result, $@ || undef);
}

sub is_fault {
  my ($name, $what) = @_;
  my ($result, $fault) = login();
  is ref $fault && $fault->{name}, $name, $what or diag explain $fault;
  is $Bugzilla::did{sessions}, undef, '... without a session';
  is $Bugzilla::did{cookies},  undef, '... or cookies';
  unlike "@log", qr/${\TOKEN}/, '... or the token in the log';
  return $fault;
}

subtest 'what Bugzilla asks of a web service' => sub {
  my $class = 'Bugzilla::Extension::Launchpad::WebService';
  is_deeply [$class->PUBLIC_METHODS], [qw(add_comment comments get_bugs login plugin_version set_link time)], 'seven methods';
  ok $class->LOGIN_EXEMPT->{$_}, "$_ sees to the session itself" for $class->PUBLIC_METHODS;
  is_deeply [$class->READ_ONLY], [], 'and never by GET';
};

subtest 'a good token' => sub {
  installation(['200']);
  my ($result, $fault) = login();
  is $fault, undef, 'no fault';
  is_deeply $result, {user_id => {int => 42}}, 'the account is named';
  is_deeply $Bugzilla::did{sessions}, [42], 'one session is kept';
  is $Bugzilla::did{set_user}->id, 42, 'the rest of the request is that account';
  is_deeply $Bugzilla::did{cookies}, {
    Bugzilla_login       => {-name => 'Bugzilla_login',       -value => 42,               -httponly => 1, -path => '/'},
    Bugzilla_logincookie => {-name => 'Bugzilla_logincookie', -value => 'stubsessionkey', -httponly => 1, -path => '/'},
    },
    'both cookies are sent';
  is_deeply $params, {}, 'the token is gone from the parameters';
  is_deeply \@log,   [], 'nothing is logged';

  my ($request) = $issuer->requests;
  is $request->{body}, 'audience=http%3A%2F%2Fbugs.example.org%2F', 'the audience is urlbase';
  like $request->{headers}->{'idempotency-key'}, qr/\A[0-9A-Za-z]{32}\z/, 'a key was sent';
};

subtest 'every login has its own key' => sub {
  my %seen;
  for (1 .. 3) {
    installation(['200']);
    login();
    $seen{($issuer->requests)[0]->{headers}->{'idempotency-key'}}++;
  }
  is keys %seen, 3, 'three logins, three keys';
};

subtest 'https only' => sub {
  installation(['200'], ssl_redirect => 1, sslbase => 'https://bugs.example.org/');
  login();
  ok $Bugzilla::did{cookies}->{$_}->{-secure}, "$_ is secure" for qw(Bugzilla_login Bugzilla_logincookie);
  is +($issuer->requests)[0]->{body}, 'audience=https%3A%2F%2Fbugs.example.org%2F', 'the audience is sslbase';
};

subtest 'https without a redirect to it' => sub {
  installation(['200'], urlbase => 'https://bugs.example.org/');
  login();
  ok $Bugzilla::did{cookies}->{$_}->{-secure}, "$_ is secure where urlbase is https" for qw(Bugzilla_login Bugzilla_logincookie);

  local $ENV{HTTPS} = 'on';
  installation(['200']);
  login();
  ok $Bugzilla::did{cookies}->{$_}->{-secure}, "$_ is secure where the request came by https" for qw(Bugzilla_login Bugzilla_logincookie);
};

subtest 'in a directory' => sub {
  installation(['200'], urlbase => 'http://bugs.example.org/bugzilla/');
  login();
  is $Bugzilla::did{cookies}->{$_}->{-path}, '/bugzilla/', "$_ is for that directory" for qw(Bugzilla_login Bugzilla_logincookie);
  is $Bugzilla::params{cookiepath}, '/', 'the parameter is as it was';

  installation(['200'], urlbase => 'http://bugs.example.org/bugzilla/', cookiepath => '/bugzilla/sub/');
  login();
  is $Bugzilla::did{cookies}->{Bugzilla_login}->{-path}, '/bugzilla/sub/', 'the parameter cookiepath is obeyed';
};

subtest 'a configured audience' => sub {
  local @ENV{qw(HTTP_HOST SERVER_NAME HTTPS)} = ('evil.example.org', 'evil.example.org', 'on');
  installation(['200'], launchpad_audience => 'https://tracker.example.org/bugs/', sslbase => 'https://bugs.example.org/');
  login();
  is +($issuer->requests)[0]->{body}, 'audience=https%3A%2F%2Ftracker.example.org%2Fbugs%2F', 'is stated';

  installation(['200'], sslbase => 'https://bugs.example.org/');
  login();
  is +($issuer->requests)[0]->{body}, 'audience=http%3A%2F%2Fbugs.example.org%2F', 'the request has no say';
};

subtest 'how the issuer is asked' => sub {
  installation(['200'], proxy_url => 'http://proxy.example.org:3128/', launchpad_timeout => 7);
  my $asked;
  no warnings 'redefine';
  local *Bugzilla::Extension::Launchpad::Verifier::verify = sub { ($asked) = @_; return $asked->_result('accepted', 200, '') };
  login();
  is $asked->{by}->{host}, 'proxy.example.org', 'through the proxy of this installation';
  is $asked->{by}->{port}, 3128,                '... and its port';
  is $asked->{timeout},    7,                   'for as long as it says';
};

subtest 'refused by the issuer' => sub {
  for my $status (400, 401, 403, 404, 405, 410, 429) {
    installation([$status]);
    is_fault('launchpad_token_refused', "HTTP $status");
    is_deeply \@log, ["Launchpad.login: issuer refused: HTTP $status\n"], '... and the log says why';
  }
};

subtest 'no usable answer' => sub {
  for my $script (['204'], ['302'], ['500'], ['cut'], ['echo']) {
    installation($script);
    is_fault('launchpad_issuer_unreachable', "answer: @$script");
    is @log, 1, '... and the log says why';
  }
  installation(['503', '200']);
  is_deeply +(login())[0], {user_id => {int => 42}}, '503 and then 200 is a login';
  is scalar($issuer->requests), 2, '... after two requests';
};

subtest 'a malformed token' => sub {
  my %bad = (none => {}, path => {Bugzilla_token => '../+index'}, array => {Bugzilla_token => ['a']}, positional => 'abc');
  for my $what (sort keys %bad) {
    installation(['200']);
    $params = $bad{$what};
    is_fault('launchpad_token_malformed', $what);
    is scalar($issuer->requests), 0, '... and the issuer was not asked';
  }
};

subtest 'not configured' => sub {
  my %missing = (
    launchpad_auth_server => ['',    undef, 'https://issuer.example.org/no-place-for-the-token'],
    launchpad_user        => ['',    undef],
    launchpad_timeout     => [0],
    proxy_url             => ['proxy.example.org:3128'],
    urlbase               => ['', 'bugs.example.org'],
  );
  for my $param (sort keys %missing) {
    for my $value (@{$missing{$param}}) {
      installation(['200'], $param => $value);
      my $fault = is_fault('launchpad_not_configured', "$param = " . ($value // 'undef'));
      is $fault->{param}, $param, '... names it';
      is scalar($issuer->requests), 0, '... and the issuer was not asked';
    }
  }
};

subtest 'an account that cannot log in' => sub {
  installation(['200'], launchpad_user => 'nobody');
  is_fault('launchpad_user_unavailable', 'missing');
  is scalar($issuer->requests), 0, '... and the token is not spent';

  installation(['200']);
  $Bugzilla::users{launchpad}->{is_enabled} = 0;
  is_fault('launchpad_user_unavailable', 'disabled');
  is scalar($issuer->requests), 0, '... and the token is not spent';
};

done_testing;
