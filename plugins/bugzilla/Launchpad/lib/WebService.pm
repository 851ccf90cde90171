# SPDX-License-Identifier: MIT OR Apache-2.0

package Bugzilla::Extension::Launchpad::WebService;

use 5.14.0;
use strict;
use warnings;

use parent qw(Bugzilla::WebService);

use Bugzilla::Auth::Persist::Cookie;
use Bugzilla::Error;
use Bugzilla::Extension::Launchpad::Handshake qw(clean_token handshake_url redeem);
use Bugzilla::User;
use Bugzilla::Util qw(generate_random_password);

use constant PUBLIC_METHODS => qw(login);

# login() is how one gets a session, so it is called without one.
use constant LOGIN_EXEMPT => {login => 1};

# Letters and digits, drawn from Bugzilla's own cryptographic generator.
use constant KEY_LENGTH => 32;

# Launchpad.login({token => "..."}) returns {user_id => N} and sets the login cookies, or throws a fault.
sub login {
  my ($self, $params) = @_;

  my $token = _take_token($params) // ThrowUserError('launchpad_token_malformed');
  my $url   = handshake_url(Bugzilla->params->{launchpad_auth_server}, $token)
    // _not_configured('launchpad_auth_server');
  my $audience = _audience() || _not_configured('urlbase');

  # Before the handshake: a token is not spent on a login that cannot happen.
  my $user = _user();

  my ($verdict, $reason) = redeem(
    url      => $url,
    token    => $token,
    audience => $audience,
    key      => generate_random_password(KEY_LENGTH),
    timeout  => Bugzilla->params->{launchpad_timeout},
    proxy    => Bugzilla->params->{proxy_url},
  );
  if ($verdict ne 'accepted') {
    warn "Launchpad.login: issuer $verdict: $reason\n";
    ThrowUserError('launchpad_token_refused') if $verdict eq 'refused';
    ThrowUserError('launchpad_issuer_unreachable');
  }

  _start_session($user);
  return {user_id => $self->type('int', $user->id)};
}

# Bugzilla has renamed `token` to `Bugzilla_token`, its own name for a session's key, before this method
# runs. It is taken out, not copied, so that nothing later can mistake it for one.
sub _take_token {
  my ($params) = @_;
  return undef if ref $params ne 'HASH';
  return clean_token(delete $params->{Bugzilla_token});
}

# How the issuer knows this tracker. Only ever configuration: a Host header is the caller's word.
sub _audience {
  my $params = Bugzilla->params;
  return $params->{launchpad_audience}
    || ($params->{ssl_redirect} && $params->{sslbase})
    || $params->{urlbase};
}

sub _user {
  my $login = Bugzilla->params->{launchpad_user} || _not_configured('launchpad_user');
  my $user  = Bugzilla::User->new({name => $login});
  ThrowUserError('launchpad_user_unavailable') if !$user || !$user->is_enabled;
  return $user;
}

sub _not_configured {
  my ($param) = @_;
  ThrowUserError('launchpad_not_configured', {param => $param});
}

# In a web service persist_login() only returns the session's key; the cookies are left to us.
sub _start_session {
  my ($user) = @_;
  my $key = Bugzilla::Auth::Persist::Cookie->new->persist_login($user);
  Bugzilla->set_user($user);

  my %flags = (-httponly => 1);
  $flags{-secure} = 1 if Bugzilla->params->{ssl_redirect};
  my $cgi = Bugzilla->cgi;
  $cgi->send_cookie(-name => 'Bugzilla_login',       -value => $user->id, %flags);
  $cgi->send_cookie(-name => 'Bugzilla_logincookie', -value => $key,      %flags);
}

1;
