# SPDX-License-Identifier: MIT OR Apache-2.0

# A login path, and sessions in a signed cookie. Nothing is stored: the cookie says who is logged in, until when, and where, and is
# signed with HMAC-SHA256, so that anybody can read it but only this tracker can write it. The documentation is at the end.

package Plack::Middleware::Countersign;

use 5.14.0;
use strict;
use warnings;

use parent qw(Plack::Middleware);

our $VERSION = '0.1.0';

use Countersign::Verifier;
use Digest::SHA qw(hmac_sha256_hex sha256);
use JSON::PP ();
use MIME::Base64 qw(decode_base64 encode_base64);
use Plack::Util::Accessor qw(verifier user secret lifetime login_path cookie_name clock);

use constant {
  DAY          => 86400,
  MAX_LIFETIME => 400 * 86400,    # seconds; browsers forget a cookie after that
  MIN_SECRET   => 32,             # bytes
  MAX_NAME     => 256,
  MAX_COOKIE   => 4096,

  # The headers by which a request says that it loads a page before anybody asked for it.
  PREFETCH => [qw(HTTP_SEC_PURPOSE HTTP_PURPOSE HTTP_X_PURPOSE HTTP_X_MOZ)],
};

my $JSON = JSON::PP->new->ascii->canonical;

sub prepare_app {
  my ($self) = @_;
  ref $self->verifier && $self->verifier->isa('Countersign::Verifier') or die "verifier must be a Countersign::Verifier\n";
  my ($scheme, $path) = ($self->verifier->audience // '') =~ m{\A(https?)://[^/]+(.*?)/*\z}is;
  $path //= '';

  $self->user('launchpad') if !defined $self->user;
  die "user must not be empty, longer than ${\MAX_NAME} bytes, or have control characters in it\n"
    if $self->user !~ /\A[^\x00-\x1f\x7f-\x9f]{1,${\MAX_NAME}}\z/;
  $self->cookie_name('launchpad_session') if !defined $self->cookie_name;
  die "cookie_name must be letters, digits, - and _ only\n" if $self->cookie_name !~ /\A[0-9A-Za-z_-]+\z/;
  $self->lifetime(DAY) if !defined $self->lifetime;
  die "lifetime must be from 1 second to 400 days\n"
    if $self->lifetime !~ /\A[0-9]{1,9}\z/a || $self->lifetime < 1 || $self->lifetime > MAX_LIFETIME;
  $self->login_path("$path/launchpad-auth") if !defined $self->login_path;
  die "login_path must be like /launchpad-auth: a slash, then letters, digits, and any of / - _ . ~ %, and no slash at the end\n"
    if $self->login_path !~ m{\A/[0-9A-Za-z/_.~%-]*[0-9A-Za-z_.~%-]\z};
  die "the path of the audience must be percent-encoded ASCII without a semicolon\n" if $path !~ /\A[!-:<-~]*\z/;
  $self->secret(Countersign::Verifier::_random_key() . Countersign::Verifier::_random_key()) if !defined $self->secret;
  die "secret has ${\length $self->secret} bytes; give at least ${\MIN_SECRET} random ones\n" if length $self->secret < MIN_SECRET;
  $self->clock(sub {time}) if !$self->clock;

  # A session of another tracker with the same secret is none of this one.
  $self->{tracker}    = ($self->verifier->audience // '') =~ s{/*\z}{}r;
  $self->{key}        = sha256("countersign session\0" . $self->secret);
  $self->{attributes} = '; HttpOnly; SameSite=Lax' . (lc($scheme // '') eq 'https' ? '; Secure' : '') . '; Path=' . ($path || '/')
    . '; Max-Age=' . $self->lifetime;
}

sub call {
  my ($self, $env) = @_;
  my $path = ($env->{SCRIPT_NAME} // '') . ($env->{PATH_INFO} // '');
  if ($path =~ m{\A\Q${\$self->login_path}\E(?:/(.*))?\z}s) { return $self->_log_in($env, $1 // '') }

  delete $env->{'countersign.login'};
  my $login = $self->_find($env->{HTTP_COOKIE} // '');
  $env->{'countersign.login'} = $login if $login;
  return $self->app->($env);
}

sub _log_in {
  my ($self, $env, $token) = @_;

  # HEAD too: looking must not use a token up.
  return _answer($env, 405, 'Only GET requests are accepted here.', Allow => 'GET') if $env->{REQUEST_METHOD} ne 'GET';
  return _refuse($env, 'This request only loads a page in advance, so it did not use the token up.')
    if grep { ($env->{$_} // '') =~ /prefetch|preview/i } @{PREFETCH()};
  return _refuse($env, 'This tracker logs in whoever brings a login token in place of the word check.') if $token eq 'check';

  my $result = $self->verifier->verify($token);
  my $id = $result ? eval { Countersign::Verifier::_random_key() } : undef;
  if (!$result || !$id) {
    $env->{'psgi.errors'}->print("countersign: refused a login by token: $result: ${\$result->reason}\n")
      if $result->outcome ne 'malformed';
    return _refuse($env, _sentence($result));
  }
  return _answer($env, 200, "Logged in as ${\$self->user}.", 'Set-Cookie' => $self->_open($id));
}

sub _open {
  my ($self, $id) = @_;
  my $since = $self->clock->();
  my %session = (id => $id, tracker => $self->{tracker}, user => $self->user, since => $since, until => $since + $self->lifetime);
  my $content = encode_base64($JSON->encode(\%session), '');
  $content =~ tr{+/=}{-_}d;
  return $self->cookie_name . '=' . $self->_sign($content) . ".$content$self->{attributes}";
}

# A browser may send several cookies of one name, of which an old one can come first.
sub _find {
  my ($self, $cookies) = @_;
  for my $cookie (split /;\s*/, $cookies) {
    my ($name, $value) = split /=/, $cookie, 2;
    next if !defined $value || $name ne $self->cookie_name;
    my $login = $self->_recognise($value);
    return $login if $login;
  }
  return undef;
}

sub _recognise {
  my ($self, $value) = @_;
  my ($signature, $content) = $value =~ /\A([0-9a-f]{64})\.([0-9A-Za-z_-]+)\z/ or return undef;

  # The signature comes first, in constant time: nothing else that a caller can write is looked at.
  return undef if length $value > MAX_COOKIE || !_is_equal($signature, $self->_sign($content));
  $content =~ tr{-_}{+/};
  my $session = $JSON->decode(decode_base64($content));
  return undef if $session->{tracker} ne $self->{tracker} || $session->{user} ne $self->user;
  return undef if $self->clock->() >= $session->{until};
  return {user => $session->{user}, since => $session->{since}};
}

# With the cookie's name: what is signed as one thing cannot be shown as another.
sub _sign {
  my ($self, $content) = @_;
  return hmac_sha256_hex($self->cookie_name . "=$content", $self->{key});
}

sub _is_equal {
  my ($one, $other) = @_;
  return '' if length $one != length $other;
  my $difference = 0;
  $difference |= ord(substr $one, $_, 1) ^ ord(substr $other, $_, 1) for 0 .. length($one) - 1;
  return $difference == 0;
}

sub _sentence {
  my ($result) = @_;
  my $status = $result->status // 0;
  my %sentences = (
    malformed   => 'That is not a login token: a token is 1 to 4096 letters and digits.',
    unreachable => 'The issuer could not be asked. Try again later.',
    unexpected  => "The issuer's answer was not understood. The administrator of this tracker finds the reason in its log.",
    accepted    => 'The token was good, but no session could be opened. Try again with a new one.',
    refused     => 'The issuer refused this token: '
      . ( $status == 403 ? 'it is for another bug tracker.'
        : $status == 404 ? 'it is not one of its own.'
        : $status == 429 ? 'too many from here were refused lately. Try again later.'
        :                  'it was used already, has expired or was revoked. Take a new one.'),
  );
  return $sentences{$result->outcome};
}

# RFC 9110 section 11.6.1 wants a challenge with every 401.
sub _refuse {
  my ($env, $sentence) = @_;
  return _answer($env, 401, $sentence, 'WWW-Authenticate' => 'LoginToken realm="launchpad-auth"');
}

sub _answer {
  my ($env, $status, $sentence, @header) = @_;
  my $body = "$sentence\n";
  utf8::encode($body);
  my @headers = ('Content-Type' => 'text/plain; charset=utf-8', 'Content-Length' => length $body, 'Cache-Control' => 'no-store', @header);
  return [$status, \@headers, [$env->{REQUEST_METHOD} eq 'HEAD' ? '' : $body]];
}

1;
__END__

=encoding utf8

=head1 NAME

Plack::Middleware::Countersign - lets an issuer of login tokens log in to a PSGI application

=head1 SYNOPSIS

  use Countersign::Verifier;
  use Plack::Builder;

  my $verifier = Countersign::Verifier->new(issuer => 'https://launchpad.net', audience => 'https://bugs.example.org/');
  builder {
    enable 'Countersign', verifier => $verifier, secret => $secret;
    $app;
  };

=head1 DESCRIPTION

C<GET {base path}/launchpad-auth/{token}> answers 200 and sets a session cookie if the issuer says yes, and 401 otherwise; to
C<launchpad-auth/check>, by which Launchpad detects a tracker that it can log in to, always 401. Every other request goes to the
application, with C<< $env->{'countersign.login'} >> as C<< {user => ..., since => ...} >> if its cookie is good.

Each request makes the tracker ask the issuer: if strangers can reach the path, limit the rate of requests in front of it.

=head1 SETTINGS

=over

=item verifier

A L<Countersign::Verifier>. The cookie is for the path of its audience, and C<Secure> if that is https.

=item secret

At least 32 random bytes that sign sessions, the same in every process of the tracker. Without it each application makes its own, and
its sessions end with it.

=item user

The user that the issuer is logged in as, C<launchpad> if nothing is said. Sessions of a former name end.

=item lifetime

Seconds that a session lasts, a day if nothing is said. A signed cookie cannot be taken back before but by changing the secret.

=item login_path

Below which tokens arrive, as the application sees it; the path of the audience and C</launchpad-auth> if nothing is said.

=item cookie_name

C<launchpad_session> if nothing is said.

=item clock

A function that gives the seconds since 1970.

=back

=head1 LICENSE

MIT OR Apache-2.0

=cut
