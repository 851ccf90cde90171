# SPDX-License-Identifier: MIT OR Apache-2.0

# An issuer on a free port of the loopback interface, in a child process. It answers its connections in turn
# as the test told it to, badly if need be, and notes every request.
#
#   my $issuer = StubIssuer->start('503', '200');
#   ...  $issuer->url ...
#   my @requests = $issuer->requests;      # stops it; each is {line => ..., headers => {...}, body => ...}
#
# Behaviours: a status; 'cut' closes without an answer; 'silent' says nothing until the caller gives up;
# 'echo' sends the request line back where a status line should be; 'half a status' is cut off inside it; 'slow status', 'slow
# headers' and 'slow continue' are a 200 that comes byte by byte; 'continue without end' is `100 Continue` again and again.
# The last behaviour repeats.

package StubIssuer;

use 5.14.0;
use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use IO::Socket::SSL;
use JSON::PP qw(decode_json encode_json);

sub start        { my ($class, @script) = @_; return $class->_start(\@script, undef) }
sub start_secure { my ($class, $tls, @script) = @_; return $class->_start(\@script, $tls) }

# A proxy that knows CONNECT only, and connects with this port whatever it is asked for.
sub start_tunnel { my ($class, $port) = @_; return $class->_start(["tunnel $port"], undef) }

# A port that nobody listens on.
sub closed_port {
  my $socket = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Proto => 'tcp') or die "no socket: $!";
  return $socket->sockport;
}

sub port { return $_[0]->{port} }

sub url {
  my ($self) = @_;
  return "$self->{scheme}://127.0.0.1:$self->{port}/token/%s/+bugtracker-handshake";
}

sub requests {
  my ($self) = @_;
  $self->_stop;
  my $from = $self->{journal};
  return map { decode_json($_) } <$from>;
}

sub DESTROY { $_[0]->_stop }

sub _start {
  my ($class, $script, $tls) = @_;
  my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 5, Proto => 'tcp')
    or die "cannot listen: $!";
  pipe(my $journal, my $notes) or die "no pipe: $!";

  my $pid = fork() // die "cannot fork: $!";
  if (!$pid) {
    close $journal;
    $SIG{PIPE} = 'IGNORE';
    eval { _serve($listener, $notes, $tls, @$script) };
    require POSIX;
    POSIX::_exit(0);
  }
  close $notes;
  return bless {pid => $pid, port => $listener->sockport, journal => $journal, scheme => $tls ? 'https' : 'http'}, $class;
}

sub _stop {
  my ($self) = @_;
  my $pid = delete $self->{pid} or return;
  local $?;
  kill TERM => $pid;
  waitpid $pid, 0;
}

sub _serve {
  my ($listener, $notes, $tls, @script) = @_;
  $notes->autoflush(1);
  while (my $socket = $listener->accept) {
    $socket->autoflush(1);
    my $behaviour = @script > 1 ? shift @script : $script[0];
    if ($tls) {
      IO::Socket::SSL->start_SSL($socket, SSL_server => 1, %$tls) or next;
    }
    my $request = _read_request($socket) or next;
    say {$notes} encode_json($request);
    _answer($socket, $behaviour, $request);
    close $socket;
  }
}

sub _read_request {
  my ($socket) = @_;
  my $line = <$socket> // return undef;
  $line =~ s/\r?\n\z//;
  my %headers;
  while (defined(my $header = <$socket>)) {
    last if $header =~ /\A\r?\n\z/;
    my ($name, $value) = $header =~ /\A([^:]+):\s*(.*?)\r?\n\z/ or next;
    $headers{lc $name} = $value;
  }
  my $body = '';
  read $socket, $body, $headers{'content-length'} || 0;
  return {line => $line, headers => \%headers, body => $body};
}

sub _answer {
  my ($socket, $behaviour, $request) = @_;
  if ($behaviour eq 'silent') { my $nothing = <$socket>; return }
  if ($behaviour eq 'cut')    { return }
  if ($behaviour eq 'echo')   { print $socket "$request->{line}\r\n\r\n"; return }
  if ($behaviour eq 'half a status') { print $socket "HTTP/1.1 40"; return }

  if ($behaviour =~ /\Atunnel ([0-9]+)/) {
    my $issuer = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $1) or return;
    syswrite $socket, "HTTP/1.1 200 Connection established\r\n\r\n";
    my $both = IO::Select->new($socket, $issuer);
    while (my @ready = $both->can_read) {
      for my $from (@ready) {
        sysread($from, my $data, 65536) or return;
        syswrite $from == $socket ? $issuer : $socket, $data;
      }
    }
  }
  if ($behaviour eq 'continue without end') {
    while (print $socket "HTTP/1.1 100 Continue\r\n\r\n") { select undef, undef, undef, 0.01 }
    return;
  }
  if ($behaviour =~ /\Aslow (.*)/) {
    my %text = (
      status   => "HTTP/1.1 200 A very slow status line indeed\r\n\r\n",
      headers  => "HTTP/1.1 200 OK\r\nX-Slow: ${\('x' x 30)}\r\n\r\n",
      continue => "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    );
    for (split //, $text{$1}) { print $socket $_ or return; select undef, undef, undef, 0.05 }
    return;
  }
  if ($behaviour eq 'continue') { print $socket "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\nHTTP/1.1 200\r\n\r\n"; return }
  if ($behaviour eq 'long headers') { print $socket "HTTP/1.1 200 OK\r\n" . ("X-Long: ${\('x' x 1000)}\r\n" x 100) . "\r\n"; return }
  if ($behaviour eq 'endless body') { print $socket "HTTP/1.1 200 OK\r\n\r\n"; while (print $socket 'x' x 65536) { } return }

  my $extra = '';
  $extra = "Location: http://127.0.0.1:1/elsewhere\r\n"    if $behaviour =~ /\A3/;
  $extra = "WWW-Authenticate: Basic realm=\"issuer\"\r\n" if $behaviour eq '401';
  my $body = $behaviour eq '204' ? '' : "stub\n";
  print $socket "HTTP/1.1 $behaviour Whatever\r\n${extra}Content-Length: ${\length $body}\r\nConnection: close\r\n\r\n$body";
}

1;
