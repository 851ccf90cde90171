#!/usr/bin/perl
# SPDX-License-Identifier: MIT OR Apache-2.0

# The login path and the sessions.

use 5.14.0;
use strict;
use warnings;
use utf8;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;

BEGIN { plan skip_all => 'Plack is not installed' if !eval { require Plack::Builder } }

use Countersign::Verifier;
use Plack::Middleware::Countersign;
use StubIssuer;

use constant {BASE => 'https://bugs.example.org/trac/', START => 1_800_000_000, SECRET => '7' x 32};

my ($issuer, $now);

# A tracker with an issuer of its own.
sub tracker {
  my ($script, %settings) = @_;
  $issuer = StubIssuer->start(@$script);
  $now    = START;
  my $base = exists $settings{base} ? delete $settings{base} : BASE;
  return wrap(verifier($base), %settings);
}

sub verifier {
  my ($base) = @_;
  return Countersign::Verifier->new(issuer => $issuer->url, audience => $base);
}

sub wrap {
  my ($verifier, %settings) = @_;
  my $app = sub {
    my $login = $_[0]->{'countersign.login'};
    return [200, [], [$login ? "$login->{user} since $login->{since}" : 'nobody']];
  };
  return Plack::Middleware::Countersign->wrap($app, verifier => $verifier, secret => SECRET, clock => sub {$now}, %settings);
}

sub ask {
  my ($tracker, $path, %env) = @_;
  open my $errors, '>', \my $log;
  my %errors = (print => sub { $log .= $_[1] });
  my $answer = $tracker->({
    REQUEST_METHOD => 'GET', PATH_INFO => $path, SCRIPT_NAME => '', HTTP_HOST => 'victim.example.org',
    'psgi.errors' => bless(\%errors, 'Errors'), %env,
  });
  my ($status, $headers, $body) = @$answer;
  unlike $log // '', qr/cs1abc/, 'the log has no token in it';
  my %headers = @$headers;
  my ($cookie, $attributes) = split /; /, $headers{'Set-Cookie'} // '', 2;
  return {status => $status, headers => \%headers, text => join('', @$body), cookie => $cookie, attributes => $attributes};
}

sub Errors::print { $_[0]->{print}->(@_) }

sub who { return ask($_[0], '/bugs', HTTP_COOKIE => $_[1])->{text} }

subtest 'a good token opens a session' => sub {
  my $tracker = tracker(['200']);
  my $answer  = ask($tracker, '/trac/launchpad-auth/cs1abc');
  is $answer->{status}, 200, 'is a yes';
  is $answer->{text}, "Logged in as launchpad.\n", 'a sentence';
  is $answer->{headers}->{'Cache-Control'}, 'no-store', 'not to be stored';
  like $answer->{cookie}, qr/\Alaunchpad_session=/, 'a cookie';
  is $answer->{attributes}, 'HttpOnly; SameSite=Lax; Secure; Path=/trac; Max-Age=86400', '... with its attributes';
  is who($tracker, $answer->{cookie}), 'launchpad since 1800000000', 'the tracker knows who it is';
  is who($tracker, ''), 'nobody', '... and nobody else';
  like +($issuer->requests)[0]->{body}, qr{bugs\.example\.org}, 'the audience is configured';
};

subtest 'every login has a session of its own' => sub {
  my $tracker = tracker(['200']);
  my %cookies = map { ask($tracker, '/trac/launchpad-auth/t', HTTP_COOKIE => 'launchpad_session=mine')->{cookie} => 1 } 1 .. 3;
  is keys %cookies, 3, 'three logins, three cookies';
  ok !grep(/mine/, keys %cookies), '... and none that was brought along';
};

subtest 'the cookie follows the base URL' => sub {
  for (
    ['https://b.example',     '/launchpad-auth/t',     'HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age=86400'],
    ['http://b.example/a/b/', '/a/b/launchpad-auth/t', 'HttpOnly; SameSite=Lax; Path=/a/b; Max-Age=86400'],
    [undef,                   '/launchpad-auth/t',     'HttpOnly; SameSite=Lax; Path=/; Max-Age=86400'],
    )
  {
    my ($base, $path, $attributes) = @$_;
    is ask(tracker(['200'], base => $base), $path)->{attributes}, $attributes, $base // 'no audience';
  }
  my $named = tracker(['200'], user => 'bug-robot', login_path => '/door', cookie_name => 's', lifetime => 60);
  my $answer = ask($named, '/door/t');
  like $answer->{cookie}, qr/\As=/, 'its name can be set';
  like $answer->{attributes}, qr/Max-Age=60\z/, '... and its life';
  like who($named, $answer->{cookie}), qr/\Abug-robot/, '... and its user';
  is ask(tracker(['200']), '/launchpad-auth/t', SCRIPT_NAME => '/trac')->{status}, 200, 'an application that is mounted finds its path';
};

subtest 'what asks nobody' => sub {
  my $tracker = tracker(['200']);
  my $check = ask($tracker, '/trac/launchpad-auth/check');
  is $check->{status}, 401, 'check';
  ok $check->{headers}->{'WWW-Authenticate'}, '... with a challenge';
  for my $method (qw(HEAD POST PUT DELETE OPTIONS)) {
    my $answer = ask($tracker, '/trac/launchpad-auth/cs1abc', REQUEST_METHOD => $method);
    is $answer->{status}, 405, $method;
    is $answer->{headers}->{Allow}, 'GET', '... and what is allowed';
    is $answer->{text} eq '', $method eq 'HEAD', '... and a body, unless it is HEAD';
  }
  for (['HTTP_SEC_PURPOSE', 'prefetch;prerender'], ['HTTP_PURPOSE', 'Prefetch'], ['HTTP_X_PURPOSE', 'preview'], ['HTTP_X_MOZ', 'prefetch']) {
    is ask($tracker, '/trac/launchpad-auth/cs1abc', @$_)->{status}, 401, "@$_";
  }
  for my $path ('', '/', '/a/b', '/../+index', '/a%2Fb', '/a.b', "/a\n", "/\xe9") {
    my $answer = ask($tracker, "/trac/launchpad-auth$path");
    is $answer->{status}, 401, 'no token';
    like $answer->{text}, qr/not a login token/, '... and it says so';
  }
  is ask($tracker, $_)->{text}, 'nobody', "$_ is the tracker's own"
    for '/launchpad-auth/t', '/trac/launchpad-authx/t', '/trac/launchpad-aut', '/trac';
  is scalar($issuer->requests), 0, 'the issuer was not asked';
};

subtest 'a refusal says why and opens nothing' => sub {
  my %sentence = (401 => 'was used already', 410 => 'was used already', 403 => 'another bug tracker', 404 => 'not one of its own',
    429 => 'too many', 500 => 'administrator', 503 => 'could not be asked');
  for my $status (sort keys %sentence) {
    my $answer = ask(tracker([$status]), '/trac/launchpad-auth/cs1abc');
    is $answer->{status}, 401, "HTTP $status";
    like $answer->{text}, qr/$sentence{$status}/, '... is said';
    ok !$answer->{headers}->{'Set-Cookie'}, '... without a session';
  }
};

subtest 'a cookie that was changed is nobody\'s' => sub {
  my $tracker = tracker(['200']);
  my $cookie  = ask($tracker, '/trac/launchpad-auth/t')->{cookie};
  my ($name, $value) = split /=/, $cookie, 2;
  my @known;
  for my $at (0 .. length($value) - 1) {
    my $changed = $value;
    substr $changed, $at, 1, substr($value, $at, 1) eq 'A' ? 'B' : 'A';
    push @known, $at if who($tracker, "$name=$changed") ne 'nobody';
  }
  is_deeply \@known, [], 'at any place';
  is who($tracker, $_), 'nobody', 'something else'
    for "$name=", "$name=" . substr($value, 0, -1), "$name=${value}A", "$name=.", "other=$value", "$name=" . '0' x 5000, $name, ';;;=';
  like who($tracker, "a=b; $name=stale; $cookie; c=d"), qr/launchpad/, 'among others it is found';
};

subtest 'a session ends in time' => sub {
  my $tracker = tracker(['200'], lifetime => 100);
  my $cookie  = ask($tracker, '/trac/launchpad-auth/t')->{cookie};
  for ([0, 1], [99, 1], [100, 0], [1_000_000, 0]) {
    $now = START + $_->[0];
    is +(who($tracker, $cookie) ne 'nobody' ? 1 : 0), $_->[1], "after $_->[0] s";
  }
};

subtest 'a session belongs to one tracker, one user and one secret' => sub {
  my $cookie = ask(tracker(['200']), '/trac/launchpad-auth/t')->{cookie};
  isnt who(wrap(verifier(BASE)), $cookie), 'nobody', 'another process';
  is who(wrap(verifier('https://bugs.example.org/other')), $cookie), 'nobody', 'another tracker';
  is who(wrap(verifier(BASE), user => 'root'), $cookie), 'nobody', 'another user';
  is who(wrap(verifier(BASE), secret => '8' x 32), $cookie), 'nobody', 'another secret';
  is who(wrap(verifier(BASE), secret => undef), $cookie), 'nobody', 'a secret of its own';
};

subtest 'settings that cannot work' => sub {
  my %bad = (user => ['', "a\nb", 'u' x 257], cookie_name => ['', 'a b', 'a;b', 'é'], login_path => ['', '/', 'login', '/login/', '/a b'],
    lifetime => [0, -1, 400 * 86400 + 1, 1.5], secret => ['', '7' x 31], verifier => ['x', undef]);
  $issuer = StubIssuer->start('200');
  for my $name (sort keys %bad) {
    for my $value (@{$bad{$name}}) {
      ok !eval { wrap(verifier(BASE), $name => $value) }, $name;
      like $@, qr/\A$name /, '... is named';
    }
  }
};

done_testing;
