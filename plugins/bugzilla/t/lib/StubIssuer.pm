# SPDX-License-Identifier: MIT OR Apache-2.0

# An issuer on a free port of the loopback interface, in a child process. It answers its connections in turn
# as the test told it to, badly if need be, and notes every request.
#
#   my $issuer = StubIssuer->start('503', '200');
#   ...  $issuer->url ...
#   my @requests = $issuer->requests;      # stops it; each is {line => ..., headers => {...}, body => ...}
#
# Behaviours: a status; 'cut' closes without an answer; 'silent' says nothing until the caller gives up;
# 'echo' sends the request line back where a status line should be; 'half a status' is cut off inside it.
# The last behaviour repeats.

package StubIssuer;

use 5.14.0;
use strict;
use warnings;

use IO::Socket::INET;
use IO::Socket::SSL;
use JSON::PP qw(decode_json encode_json);

sub start        { my ($class, @script) = @_; return $class->_start(\@script, undef) }
sub start_secure { my ($class, $tls, @script) = @_; return $class->_start(\@script, $tls) }

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

  my $extra = '';
  $extra = "Location: http://127.0.0.1:1/elsewhere\r\n"    if $behaviour =~ /\A3/;
  $extra = "WWW-Authenticate: Basic realm=\"issuer\"\r\n" if $behaviour eq '401';
  my $body = $behaviour eq '204' ? '' : "stub\n";
  print $socket "HTTP/1.1 $behaviour Whatever\r\n${extra}Content-Length: ${\length $body}\r\nConnection: close\r\n\r\n$body";
}

1;
