# SPDX-License-Identifier: MIT OR Apache-2.0

# A stand-in for as much of Bugzilla as the extension touches. Every package notes what it was asked to do in
# %Bugzilla::did, for the tests to look at. It also finds the extension's modules the way Bugzilla does.

package Bugzilla;

use 5.14.0;
use strict;
use warnings;

use Bugzilla::Constants qw(USAGE_MODE_XMLRPC);

our (%params, %users, %bugs, %did, %cache, $user, $usage_mode);

# A configured installation with one account, two bugs, and a caller without a session. Tests change these from here.
sub reset_stub {
  %did        = ();
  %cache      = ();
  $user       = bless {id => 0, name => ''}, 'Bugzilla::User';
  %bugs       = map { $_->{bug_id} => $_ } (
    {bug_id => 1, delta_ts => '2026-11-30 10:00:00', product => 'Door',   alias => ['squeak'], see_also => []},
    {bug_id => 2, delta_ts => '2026-11-30 12:00:00', product => 'Window', alias => [],         see_also => []},
  );
  $usage_mode = USAGE_MODE_XMLRPC;
  %users      = (launchpad => {id => 42, login => 'launchpad', is_enabled => 1});
  %params     = (
    urlbase               => 'http://bugs.example.org/',
    cookiepath            => '/',
    sslbase               => '',
    ssl_redirect          => 0,
    proxy_url             => '',
    launchpad_auth_server => 'http://127.0.0.1:1/token/%s/+bugtracker-handshake',
    launchpad_user        => 'launchpad',
    launchpad_audience    => '',
    launchpad_timeout     => 5,
  );
}

sub params     { return \%params }
sub usage_mode { return $usage_mode }
sub cgi        { return bless {}, 'Bugzilla::CGI' }
sub set_user   { $did{set_user} = $_[1] }

sub request_cache { return \%cache }
sub user          { return $user }

# Notes how it was called. A test's `stale` is a cookie that Bugzilla does not know.
sub login {
  my ($class, $type) = @_;
  push @{$did{logins}}, [$type, $cache{launchpad_call}];
  die {name => 'invalid_cookies_or_token'} if $user->{stale};
  die {name => 'login_required'} if $type == Bugzilla::Constants::LOGIN_REQUIRED() && !$user->{id};
  return $user;
}

sub Bugzilla::CGI::send_cookie {
  my ($self, %cookie) = @_;
  $did{cookies}->{$cookie{-name}} = {%cookie, -path => $params{cookiepath}};
}

unshift @INC, sub {
  my (undef, $file) = @_;
  my ($module) = $file =~ m{\ABugzilla/Extension/Launchpad/(\w+\.pm)\z} or return;
  open my $handle, '<', "Launchpad/lib/$module" or return;
  $INC{$file} = "Launchpad/lib/$module";
  return $handle;
};

reset_stub();
1;
