# SPDX-License-Identifier: MIT OR Apache-2.0

# The handshake: asks the issuer of a login token whether the token is its own and unused. The documentation is at the end. The
# rules are those of tests/verifiers/cases.json in Countersign's repository.
#
# It uses neither LWP nor HTTP::Tiny, whose time limit is for one wait: an issuer that sends a byte now and then, or `100 Continue`
# without end, would keep a process of the web server for ever. Nor an alarm, which is the web server's under mod_perl.

package Countersign::Verifier;

use 5.14.0;
use strict;
use warnings;

our $VERSION = '0.1.0';

use IO::Select;
use IO::Socket::IP;
use MIME::Base64 qw(encode_base64);
use POSIX ();
use Socket qw(SOCK_STREAM getaddrinfo getnameinfo NI_NUMERICHOST NIx_NOSERV);
use Time::HiRes qw(CLOCK_MONOTONIC clock_gettime);

use constant {
  DEFAULT_TIMEOUT => 10,
  MAX_TIMEOUT     => 60,
  MAX_TOKEN       => 4096,        # characters; usually 20 to 120, but a token may carry what the issuer claims
  MAX_AUDIENCE    => 512,         # bytes
  MAX_HEAD        => 64 * 1024,   # bytes of status lines and headers; the body is not read
  PORTS           => {http => 80, https => 443},
  REFUSALS        => {map { $_ => 1 } 401, 403, 404, 410, 429},

  # The issuer, or a gateway in front of it, says that it could not answer.
  NO_ANSWER => {map { $_ => 1 } 502, 503, 504},

  HOST => qr/\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z_-]+(?:\.[0-9A-Za-z_-]+)*\.?/,
};

my %SETTINGS = map { $_ => 1 } qw(issuer audience timeout ca_file proxy allow_insecure_http);

sub new {
  my ($class, %settings) = @_;
  for my $name (sort keys %settings) {
    die "there is no setting '$name'; there are: " . join(', ', sort keys %SETTINGS) . "\n" if !$SETTINGS{$name};
  }
  my $self = bless {timeout => DEFAULT_TIMEOUT, %settings}, $class;

  my $issuer = _trim($self->{issuer} // '');
  $issuer =~ s{/*\z}{/token/%s/+bugtracker-handshake} if $issuer !~ /%s|bugtracker-handshake/;
  my $error = $class->issuer_error($issuer);
  die "issuer $error\n" if $error ne '';
  $self->{issuer} = $issuer;

  # The pattern also untaints.
  @$self{qw(scheme authority)} = $issuer =~ m{\A(https?)://([^/]+)/}i;
  $self->{scheme} = lc $self->{scheme};
  @$self{qw(host port)} = _host_and_port($self->{authority}, PORTS->{$self->{scheme}});

  die "issuer must be an https URL, because anybody on the way could answer in its place and log in here; permit http with "
    . "allow_insecure_http if the way is protected by other means\n"
    if !$self->is_protected && !$self->{allow_insecure_http};

  $error = $class->timeout_error($self->{timeout});
  die "timeout $error\n" if $error ne '';

  if (defined $self->{audience}) {
    $self->{audience} = _trim($self->{audience});
    $error = $class->audience_error($self->{audience});
    die "audience $error\n" if $error ne '';
  }

  if (defined $self->{proxy}) {
    my ($userinfo, $host, $port) = $self->{proxy} =~ m{\Ahttp://(?:([^/@\s]*)@)?(${\HOST})(?::([0-9]{1,5}))?/?\z}
      or die "proxy must look like http://proxy.example.org:3128\n";
    my $credentials = '';
    if (defined $userinfo) {
      $userinfo =~ s/%([0-9A-Fa-f]{2})/chr hex $1/ge;
      $credentials = 'Proxy-Authorization: Basic ' . encode_base64($userinfo, '') . "\r\n";
    }
    $self->{by} = {host => $host, port => $port // PORTS->{http}, credentials => $credentials};
  }

  if ($self->{scheme} eq 'https') {
    require IO::Socket::SSL;
    IO::Socket::SSL->VERSION('1.968');
    die "ca_file cannot be read\n" if defined $self->{ca_file} && !-r $self->{ca_file};
  }
  return $self;
}

# What is wrong with the URL of a handshake; '' if nothing is.
sub issuer_error {
  my ($class, $template) = @_;
  return 'must be a URL that starts with http:// or https:// and names a host and a path, without user name, spaces or "#"'
    if $template !~ m{\Ahttps?://${\HOST}(?::[0-9]{1,5})?/[!"\$-\[\]-~]*\z}i;
  my ($port) = $template =~ m{\A\w+://(?:\[[^\]]*\]|[^/:]*):([0-9]+)/};
  return 'must have a port from 1 to 65535, if any' if defined $port && ($port < 1 || $port > 65535);

  my ($path, $query) = $template =~ m{\A\w+://[^/]+([^?]*)(.*)\z}s;
  return 'must contain %s, where the token goes, exactly once and in its path'
    if (() = $path =~ /%s/g) != 1 || $query =~ /%s/;
  return 'may contain no % besides %s and percent-encoded characters such as %2B'
    if "$path$query" =~ /%(?!s|[0-9A-Fa-f]{2})/;
  return 'may contain no part . or .. in its path' if $path =~ m{/(?:\.|%2e){1,2}(?:/|\z)}i;
  return '';
}

# The same for the base URL of a tracker.
sub audience_error {
  my ($class, $audience) = @_;
  return 'must be the base URL of this tracker, as http(s)://host/path/, without user name, password, query and fragment'
    if $audience !~ m{\Ahttps?://(?:\[[0-9A-Fa-f:.]+\]|[^\s/?#\@:\[\]\\]+)(?::[0-9]{1,5})?(?:/[^\s?#\\]*)?\z}i;
  my $bytes = $audience;
  utf8::encode($bytes);
  return 'must have at most ' . MAX_AUDIENCE . ' bytes' if length $bytes > MAX_AUDIENCE;
  return '';
}

sub timeout_error {
  my ($class, $timeout) = @_;
  return '' if $timeout =~ /\A[0-9]+(?:\.[0-9]+)?\z/a && $timeout > 0 && $timeout <= MAX_TIMEOUT;
  return 'must be more than 0 and at most ' . MAX_TIMEOUT . ' seconds';
}

# The token, untainted, or undef unless it is letters and digits only. It becomes a part of a URL that this
# server requests, so "../+index" and the like must never get past here.
sub clean_token {
  my ($class, $token) = @_;
  return undef if !defined $token;
  my ($clean) = $token =~ /\A([0-9A-Za-z]{1,${\MAX_TOKEN}})\z/;
  return $clean;
}

sub audience { return $_[0]->{audience} }

# Whether the connection proves that the issuer answers.
sub is_protected {
  my ($self) = @_;
  return 1 if $self->{scheme} eq 'https';
  my $host = lc $self->{host};
  return $host =~ /\A(?:(?:.+\.)?localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])\z/ ? 1 : '';
}

sub verify {
  my ($self, $token) = @_;
  local $@;
  my $clean = (ref $self)->clean_token($token);
  return $self->_result('malformed', undef, 'that is not a login token: a token is 1 to 4096 letters and digits') if !defined $clean;

  # The issuer may have consumed the token although its answer was lost. It answers the same key the same way for a minute, so asking
  # once more is safe. Anybody else who comes with this token has another key.
  my $key = eval { _random_key() } // return $self->_result('unreachable', undef, 'the operating system gave no random bytes');

  my $answer = $self->_answer($clean, $key);
  my $pause  = $self->_pause_before_retry($answer);
  if (defined $pause) {
    Time::HiRes::sleep($pause) if $pause;
    $answer = $self->_answer($clean, $key);
  }

  my $status = $answer->{status} // return $self->_result('unreachable', undef, _one_line($answer->{lost}, $clean));
  my $outcome
    = $status == 200       ? 'accepted'
    : REFUSALS->{$status}  ? 'refused'
    : NO_ANSWER->{$status} ? 'unreachable'
    :                        'unexpected';
  return $self->_result($outcome, $status, "HTTP $status");
}

sub _result {
  my ($self, $outcome, $status, $reason) = @_;
  return bless {outcome => $outcome, status => $status, reason => $reason}, 'Countersign::Verifier::Result';
}

# The seconds to wait before the question is asked again; undef if the answer is final.
sub _pause_before_retry {
  my ($self, $answer) = @_;
  return $answer->{final} ? undef : 0 if !defined $answer->{status};
  return undef if !NO_ANSWER->{$answer->{status}};
  my $pause = ($answer->{retry_after} // '') =~ /\A([0-9]{1,9})\z/a ? $1 : 0;
  return $pause <= $self->{timeout} ? $pause : undef;
}

# {status, retry_after}, or {lost, final}: why there is no answer, and whether asking again does not help.
sub _answer {
  my ($self, $token, $key) = @_;
  local $SIG{PIPE} = 'IGNORE';
  my $answer = eval { $self->_ask($token, $key, clock_gettime(CLOCK_MONOTONIC) + $self->{timeout}) };
  return $answer if $answer;
  return ref $@ ? $@ : {lost => $@};
}

# Dies with a line that says why there is no answer. All of it ends at `deadline`.
sub _ask {
  my ($self, $token, $key, $deadline) = @_;
  my $by = $self->{by};
  my $to = "$self->{host}:$self->{port}";

  my $socket = _connect($by ? @$by{qw(host port)} : @$self{qw(host port)}, $deadline);
  if ($by) {
    _write($socket, "CONNECT $to HTTP/1.1\r\nHost: $to\r\n$by->{credentials}\r\n", $deadline);
    my $status = _read_head($socket, $deadline)->{status};
    die "the proxy answered HTTP $status\n" if $status != 200;
  }
  $self->_start_tls($socket, $deadline) if $self->{scheme} eq 'https';

  (my $url = $self->{issuer}) =~ s/%s/$token/;
  my ($target) = $url =~ m{\A\w+://[^/]+(/.*)\z}s;
  my $body = defined $self->{audience} ? 'audience=' . _encode($self->{audience}) : '';
  _write(
    $socket,
    "POST $target HTTP/1.1\r\n"
      . "Host: $self->{authority}\r\n"
      . "Accept: text/plain\r\n"
      . "Connection: close\r\n"
      . "Content-Length: ${\length $body}\r\n"
      . "Content-Type: application/x-www-form-urlencoded\r\n"
      . "Idempotency-Key: $key\r\n"
      . "User-Agent: countersign-verifier-perl\r\n\r\n$body",
    $deadline,
  );
  return _read_head($socket, $deadline);
}

sub _trim {
  my ($text) = @_;
  $text =~ s/\A\s+|\s+\z//g;
  return $text;
}

# As in a form.
sub _encode {
  my ($text) = @_;
  utf8::encode($text);
  $text =~ s/([^0-9A-Za-z._~-])/sprintf '%%%02X', ord $1/ge;
  return $text;
}

# 128 bits, in hexadecimal.
sub _random_key {
  open my $urandom, '<:raw', '/dev/urandom' or die "no random bytes: $!\n";
  my $read = sysread $urandom, my $bytes, 16;
  die "no random bytes\n" if ($read // 0) != 16;
  return unpack 'H*', $bytes;
}

sub _host_and_port {
  my ($authority, $default) = @_;
  my ($host, $port) = $authority =~ /\A(${\HOST})(?::([0-9]{1,5}))?\z/ or die "'$authority' is no host\n";
  return ($host, $port // $default);
}

sub _connect {
  my ($host, $port, $deadline) = @_;
  (my $name = $host) =~ s/\A\[|\]\z//g;
  my $message = 'no address';
  for my $number (_addresses($name, $deadline)) {
    my $socket = IO::Socket::IP->new(PeerHost => $number, PeerPort => $port, Timeout => _left($deadline));
    if ($socket) {
      $socket->blocking(0);
      return $socket;
    }
    $message = $@ || $!;
  }
  die "$name: $message\n";
}

# The addresses of a host, as numbers. Nothing ends a look-up in time but the end of its process, so it has one of its own.
sub _addresses {
  my ($name, $deadline) = @_;
  return $name if $name =~ /:|\A[0-9]+(?:\.[0-9]+){3}\z/;

  pipe(my $reader, my $writer) or die "no pipe: $!\n";
  my $pid = fork() // die "no process to look the host's name up in: $!\n";
  if (!$pid) {
    my $found = eval { join "\n", 'found', _look_up($name) } // $@;
    syswrite $writer, $found;
    POSIX::_exit(0);
  }
  close $writer;
  my $found = '';
  my $read  = eval {
    while (1) {
      die "timeout: the host's name was not found in time\n" if !IO::Select->new($reader)->can_read(_left($deadline));
      sysread($reader, $found, 4096, length $found) or last;
    }
    1;
  };
  my $error = $@;
  { local ($?, $!); kill KILL => $pid; waitpid $pid, 0; }
  die $error if !$read;
  my ($answer, @numbers) = split /\n/, $found;
  die "$name: " . ($answer // 'the look-up failed') . "\n" if ($answer // '') ne 'found';

  # The pattern also untaints.
  return map { /\A([0-9A-Fa-f:.%A-Za-z]+)\z/ ? $1 : () } @numbers;
}

sub _look_up {
  my ($name) = @_;
  my ($error, @found) = getaddrinfo($name, '', {socktype => SOCK_STREAM});
  die "$error\n" if $error;
  return map { my ($failed, $number) = getnameinfo($_->{addr}, NI_NUMERICHOST, NIx_NOSERV); $failed ? () : $number } @found;
}

# Makes sure that the issuer is who its certificate says it is. The environment can name other authorities than the system's, as
# for every program that uses OpenSSL, and nothing else.
sub _start_tls {
  my ($self, $socket, $deadline) = @_;
  (my $name = $self->{host}) =~ s/\A\[|\]\z//g;
  my $is_address = $name =~ /:|\A[0-9.]+\z/;
  my $ca_file    = $self->{ca_file} // $ENV{SSL_CERT_FILE};
  IO::Socket::SSL->start_SSL(
    $socket,
    SSL_startHandshake  => 0,
    SSL_verify_mode     => IO::Socket::SSL::SSL_VERIFY_PEER(),
    SSL_verifycn_scheme => 'http',
    SSL_verifycn_name   => $name,
    SSL_version         => 'SSLv23:!SSLv2:!SSLv3:!TLSv1:!TLSv1_1',
    $is_address ? () : (SSL_hostname => $name),
    $ca_file    ? (SSL_ca_file => $ca_file) : (),
  ) or die "TLS: $IO::Socket::SSL::SSL_ERROR\n";
  until ($socket->connect_SSL) {
    my $error = "$IO::Socket::SSL::SSL_ERROR";

    # The peer is not the issuer: a retry does not help.
    die {lost => "TLS: $error", final => 1} if $error =~ /certificate verify failed|hostname verification failed/;
    _wait_for_tls($socket, $deadline, "TLS: $error");
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

# {status, retry_after} of the first answer that is not 1xx, when all of its headers are there.
sub _read_head {
  my ($socket, $deadline) = @_;
  my ($text, $total) = ('', 0);
  while (1) {
    my $read = sysread $socket, $text, 4096, length $text;
    if (!defined $read) { _wait($socket, $deadline, 'read', "read: $!"); next }
    _left($deadline);
    if (!$read) { die $total ? "the answer was not HTTP\n" : "the connection was closed without an answer\n" }
    $total += $read;
    die "the headers of the answer are too long\n" if $total > MAX_HEAD;
    while ($text =~ s/\A(.*?\n)\r?\n//s) {
      my $head = $1;
      my ($status) = $head =~ m{\AHTTP/1\.[01] ([1-9][0-9]{2})(?: [^\r\n]*)?\r?\n};
      die "the answer was not HTTP\n" if !$status;
      next if $status < 200 && $status != 101;
      my ($retry_after) = $head =~ /^Retry-After:[ \t]*([^\r\n]*?)[ \t]*\r?$/im;
      return {status => $status, retry_after => $retry_after};
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

package Countersign::Verifier::Result;

# A result is true if the token was good, and in no other case.
use overload bool => sub { $_[0]->{outcome} eq 'accepted' }, '""' => sub { $_[0]->{outcome} }, fallback => 1;

sub outcome { return $_[0]->{outcome} }
sub status  { return $_[0]->{status} }
sub reason  { return $_[0]->{reason} }

1;
__END__

=encoding utf8

=head1 NAME

Countersign::Verifier - asks the issuer of a login token whether the token is genuine

=head1 SYNOPSIS

  use Countersign::Verifier;

  my $verifier = Countersign::Verifier->new(
    issuer   => 'https://launchpad.net',
    audience => 'https://bugs.example.org/',
  );

  my $result = $verifier->verify($token);
  if ($result) {
    # The issuer answered exactly 200, and has used the token up: open a new session.
  }
  else {
    warn "refused a login by token: $result: ", $result->reason, "\n";
  }

=head1 DESCRIPTION

For bug trackers in Perl: lets an issuer of login tokens, such as Launchpad, log in without a shared password. The issuer's worker
brings a token that works once. The tracker asks the issuer, at the URL that it was I<configured> with, whether the token is
genuine. L<Plack::Middleware::Countersign> is a login path and a session around a whole application.

The token must be letters and digits before it becomes a part of a URL; certificates are verified; redirects and the environment's
proxies are not followed; exactly 200 is a yes; a lost answer is asked for once more with the same C<Idempotency-Key>; and the time
limit is for the whole answer. No reason has the token in it.

=head1 METHODS

=head2 new

Dies with a sentence for the administrator if a setting cannot work.

=over

=item issuer

The issuer's base URL, or the URL of its handshake with C<%s> where the token goes. It must come from configuration, never from a
request.

=item audience

The tracker's own base URL, from its configuration: never from a C<Host> header, which a caller chooses. B<Set it.> Without it tokens
for this tracker alone are refused, and other trackers can bring theirs here.

=item timeout

Seconds for one whole answer, 10 if nothing is said and at most 60. C<verify> takes at most three times as long: two answers, and
the pause that an issuer can ask for with C<Retry-After>.

=item ca_file

PEM file with the certificate authorities to trust, instead of the system's.

=item proxy

C<http://HOST:PORT> of a proxy that allows CONNECT. The environment's proxy variables are ignored: under CGI a caller can set them by
a header.

=item allow_insecure_http

Permits an C<http> issuer on another machine, for a way that is protected by other means.

=back

=head2 verify

Asks the issuer to consume a token, and never dies. The result is true if, and only if, the issuer said yes. As a string, and by
C<outcome>, it is one of:

=over

=item accepted

The issuer answered exactly 200. It gives this answer once for each token.

=item refused

It said no: 401, 403, 404, 410 or 429.

=item unreachable

It gave no answer, also not when it was asked again. The token may still be good, or used up.

=item unexpected

It answered with something that is neither a yes nor a no, such as a redirect.

=item malformed

That is no token, so the issuer was not asked.

=back

C<status> is the HTTP status, if there was one, and C<reason> one line for the log.

=head2 clean_token, issuer_error, audience_error, timeout_error

Class methods for those who check settings themselves: the untainted token or C<undef>, and what is wrong with a value, or C<''>.

=head1 LICENSE

MIT OR Apache-2.0

=cut
