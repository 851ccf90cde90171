# SPDX-License-Identifier: MIT OR Apache-2.0

# The question put to the issuer of a token: "did you give this out, and is it unused?"
# Nothing here knows of Bugzilla, and nothing here logs.
#
# It does not use LWP, whose time limit is for one wait: an issuer that sends a byte now and then, or `100 Continue` without
# end, would keep a process of the web server for ever. Nor an alarm, which is the web server's under mod_perl.

package Bugzilla::Extension::Launchpad::Handshake;

use 5.14.0;
use strict;
use warnings;

use parent qw(Exporter);

use IO::Select;
use IO::Socket::IP;
use IO::Socket::SSL 1.968;
use MIME::Base64 qw(encode_base64);
use Socket qw(SOCK_STREAM getaddrinfo getnameinfo NI_NUMERICHOST NIx_NOSERV);
use Time::HiRes qw(CLOCK_MONOTONIC clock_gettime);
use URI;
use URI::Escape qw(uri_unescape);

our @EXPORT_OK = qw(auth_server_error clean_token handshake_url redeem);

use constant {
  MAX_TOKEN => 4096,         # characters; usually 20 to 120, but a token may carry what the issuer claims
  MAX_HEAD  => 64 * 1024,    # bytes of status lines and headers; the body is not read
  ATTEMPTS  => 2,
  PORTS     => {http => 80, https => 443},
};

# The token, untainted, or undef unless it is letters and digits only. It becomes a part of a URL that this
# server requests, so "../+index" and the like must never get past here.
sub clean_token {
  my ($token) = @_;
  return undef if !defined $token;
  my ($clean) = $token =~ /\A([0-9A-Za-z]{1,${\MAX_TOKEN}})\z/;
  return $clean;
}

# What is wrong with a handshake URL template; '' if nothing is.
sub auth_server_error {
  my ($template) = @_;
  return 'must be a URL that starts with http:// or https:// and names a host and a path, without spaces or "#"'
    if $template !~ m{\Ahttps?://[0-9A-Za-z.\-:\[\]]+/[!"\$-~]*\z};

  (my $path = $template) =~ s{\Ahttps?://[^/]+}{};
  return 'must contain %s, where the token goes, exactly once' if (() = $path =~ /%s/g) != 1;
  return 'may contain no % besides %s and percent-encoded characters such as %2B'
    if $path =~ /%(?!s|[0-9A-Fa-f]{2})/;
  return '';
}

# The token's handshake URL, or undef if the template is unusable. `token` comes from clean_token().
sub handshake_url {
  my ($template, $token) = @_;
  return undef if !defined $template || auth_server_error($template) ne '';
  (my $url = $template) =~ s/%s/$token/;
  return $url;
}

# Asks the issuer to consume the token. Never dies. Arguments, by name:
#   url       from handshake_url()
#   token     the same token; only kept out of `reason` with it
#   audience  URL of this tracker, as configured
#   key       a fresh random value; makes the second attempt harmless if only the first one's answer was lost
#   timeout   seconds for the whole answer, for each of at most two attempts
#   proxy     URL of an HTTP proxy, or ''
# Returns (verdict, reason):
#   accepted     the issuer answered exactly 200: the token was good and is used up now
#   refused      it answered 4xx
#   unreachable  neither: no whole answer in time, a failing server, a redirect, another 2xx, a bad certificate
# `reason` is one line for the log, without the token.
sub redeem {
  my (%ask) = @_;

  my $proxy;
  if ($ask{proxy}) {
    $proxy = URI->new($ask{proxy});
    return (unreachable => 'the parameter proxy_url is not a URL') if ($proxy->scheme // '') ne 'http' || !$proxy->host;
  }

  my ($status, $message);
  for (1 .. ATTEMPTS) {
    $status = eval { _ask(\%ask, $proxy, clock_gettime(CLOCK_MONOTONIC) + $ask{timeout}) };
    $message = $@;
    last if $status && $status < 500;
  }

  return (unreachable => _one_line($message, $ask{token})) if !$status;
  return (accepted    => 'HTTP 200')                       if $status == 200;
  return (refused     => "HTTP $status")                   if $status >= 400 && $status < 500;
  return (unreachable => "HTTP $status");
}

# The status of the answer. Dies with a line that says why there is none. All of it ends at `deadline`.
sub _ask {
  my ($ask, $proxy, $deadline) = @_;

  # The pattern also untaints. An address of IPv6 stands in brackets.
  my ($scheme, $authority, $path) = $ask->{url} =~ m{\A(https?)://([^/]+)(/.*)\z}s or die "the URL of the issuer has no path\n";
  my ($host, $port) = _host_and_port($authority, PORTS->{$scheme});
  my ($to_host, $to_port) = $proxy ? _host_and_port($proxy->host_port, PORTS->{http}) : ($host, $port);
  my $credentials = '';
  if ($proxy && defined $proxy->userinfo) {
    $credentials = 'Proxy-Authorization: Basic ' . encode_base64(uri_unescape($proxy->userinfo), '') . "\r\n";
  }

  my $socket = _connect($to_host, $to_port, $deadline);
  if ($scheme eq 'https') {
    if ($proxy) {
      _write($socket, "CONNECT $host:$port HTTP/1.1\r\nHost: $host:$port\r\n$credentials\r\n", $deadline);
      my $status = _read_status($socket, $deadline);
      die "the proxy answered HTTP $status\n" if $status != 200;
    }
    _start_tls($socket, $host, $deadline);
    $credentials = '';
  }

  my $form = URI->new('http:');
  $form->query_form(audience => $ask->{audience});
  my $body = $form->query;
  _write(
    $socket,
    'POST ' . ($proxy && $scheme eq 'http' ? "http://$authority" : '') . "$path HTTP/1.1\r\n"
      . "Host: $authority\r\n$credentials"
      . "Accept: text/plain\r\n"
      . "Connection: close\r\n"
      . "Content-Length: ${\length $body}\r\n"
      . "Content-Type: application/x-www-form-urlencoded\r\n"
      . "Idempotency-Key: $ask->{key}\r\n"
      . "User-Agent: Bugzilla-Launchpad\r\n\r\n$body",
    $deadline,
  );
  return _read_status($socket, $deadline);
}

sub _host_and_port {
  my ($authority, $default) = @_;
  my ($host, $port) = $authority =~ /\A(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z.\-]+)(?::([0-9]{1,5}))?\z/ or die "'$authority' is no host\n";
  return ($host, $port // $default);
}

sub _connect {
  my ($host, $port, $deadline) = @_;
  (my $name = $host) =~ s/\A\[|\]\z//g;
  my ($error, @found) = getaddrinfo($name, $port, {socktype => SOCK_STREAM});
  die "$name: $error\n" if $error;
  my $message = 'no address';
  for my $address (@found) {
    (my $failed, my $number) = getnameinfo($address->{addr}, NI_NUMERICHOST, NIx_NOSERV);
    next if $failed;
    my ($clean) = $number =~ /\A([0-9A-Fa-f:.%A-Za-z]+)\z/ or next;
    my $socket = IO::Socket::IP->new(PeerHost => $clean, PeerPort => $port, Timeout => _left($deadline));
    if ($socket) {
      $socket->blocking(0);
      return $socket;
    }
    $message = $@ || $!;
  }
  die "$name: $message\n";
}

# Makes sure that the issuer is who its certificate says it is. The environment can name other authorities than the system's, as
# for every program that uses OpenSSL, and nothing else.
sub _start_tls {
  my ($socket, $host, $deadline) = @_;
  (my $name = $host) =~ s/\A\[|\]\z//g;
  my $is_address = $name =~ /:|\A[0-9.]+\z/;
  IO::Socket::SSL->start_SSL(
    $socket,
    SSL_startHandshake  => 0,
    SSL_verify_mode     => IO::Socket::SSL::SSL_VERIFY_PEER(),
    SSL_verifycn_scheme => 'http',
    SSL_verifycn_name   => $name,
    $is_address         ? () : (SSL_hostname => $name),
    $ENV{SSL_CERT_FILE} ? (SSL_ca_file => $ENV{SSL_CERT_FILE}) : (),
  ) or die "TLS: $IO::Socket::SSL::SSL_ERROR\n";
  until ($socket->connect_SSL) {
    _wait_for_tls($socket, $deadline, "TLS: $IO::Socket::SSL::SSL_ERROR");
  }
}

sub _write {
  my ($socket, $text, $deadline) = @_;
  while (length $text) {
    my $written = syswrite $socket, $text;
    if (defined $written) { substr $text, 0, $written, ''; next }
    _wait($socket, $deadline, 'write', "write: $!");
  }
}

# The status of the first answer that is not 1xx, when all of its headers are there.
sub _read_status {
  my ($socket, $deadline) = @_;
  my ($text, $total) = ('', 0);
  while (1) {
    my $read = sysread $socket, $text, 4096, length $text;
    if (!defined $read) { _wait($socket, $deadline, 'read', "read: $!"); next }
    _left($deadline);
    if (!$read) { die $total ? "the answer was not HTTP\n" : "the connection was closed without an answer\n" }
    $total += $read;
    die "the headers of the answer are too long\n" if $total > MAX_HEAD;
    while ($text =~ s/\A(.*?)\r?\n\r?\n//s) {
      my ($status) = $1 =~ m{\AHTTP/1\.[0-9] ([1-9][0-9]{2})(?: [^\r\n]*)?(?:\r?\n|\z)};
      die "the answer was not HTTP\n" if !$status;
      return $status if $status >= 200 || $status == 101;
    }
  }
}

# Waits until the socket is ready, or dies: because time is up, or because it is broken, with `message` then.
sub _wait {
  my ($socket, $deadline, $direction, $message) = @_;
  return _wait_for_tls($socket, $deadline, $message) if $socket->isa('IO::Socket::SSL');
  die "$message\n" if !$!{EAGAIN} && !$!{EWOULDBLOCK} && !$!{EINTR};
  my $select = IO::Select->new($socket);
  $direction eq 'read' ? $select->can_read(_left($deadline)) : $select->can_write(_left($deadline));
  _left($deadline);
}

sub _wait_for_tls {
  my ($socket, $deadline, $message) = @_;
  my $select = IO::Select->new($socket);
  my $error  = $IO::Socket::SSL::SSL_ERROR + 0;
  if    ($error == IO::Socket::SSL::SSL_WANT_READ())  { $select->can_read(_left($deadline)) }
  elsif ($error == IO::Socket::SSL::SSL_WANT_WRITE()) { $select->can_write(_left($deadline)) }
  else                                                { die "$message\n" }
  _left($deadline);
}

# The seconds that are left. Dies if none are.
sub _left {
  my ($deadline) = @_;
  my $left = $deadline - clock_gettime(CLOCK_MONOTONIC);
  die "timeout: no whole answer in time\n" if $left <= 0;
  return $left;
}

sub _one_line {
  my ($text, $token) = @_;
  $text =~ s/\Q$token\E/[token]/g;
  $text =~ s/\s*[\r\n].*//s;
  $text =~ s/[^ -~]/?/g;
  return substr($text, 0, 200);
}

1;
