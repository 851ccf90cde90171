#!/usr/bin/perl
# SPDX-License-Identifier: MIT OR Apache-2.0

# The checks that every bug tracker's plugin must pass, in a real Bugzilla: `countersign check-tracker`. Started by
# run-in-real-bugzilla.

use 5.14.0;
use strict;
use warnings;

use IO::Socket::INET;
use JSON::PP qw(decode_json);
use Test::More;
use XMLRPC::Lite;

sub configure {
  my (%params) = @_;
  my $set = 'my %p = @ARGV; SetParam($_ => $p{$_}) for keys %p; write_params()';
  system('sh', '-c', 'cd "$BUGZILLA_DIR" && exec perl -I. -MBugzilla -MBugzilla::Config=:admin -e "$0" -- "$@"', $set, %params) == 0
    or die 'the parameters cannot be set';
}

# What the checks come to with an issuer of this scheme.
sub findings {
  my ($scheme, @options) = @_;
  my $port = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1)->sockport;

  # Bugzilla is seen to give up on slow answers; two seconds are enough for that.
  configure(launchpad_auth_server => "$scheme://127.0.0.1:$port/token/%s/+bugtracker-handshake", launchpad_timeout => 2);
  open my $out, '-|', $ENV{COUNTERSIGN_BIN}, 'check-tracker', $ENV{BUGZILLA_URL}, '--kind', 'bugzilla', '--listen', "127.0.0.1:$port",
    '--timeout', '2m', '--json', @options
    or die "check-tracker cannot be started: $!";
  my $report = decode_json(do { local $/; <$out> } || '{}');
  close $out;
  is $?, 0, "$scheme: it ends with 0";
  return @{$report->{findings} || []};
}

# conversation.t has made it.
my %admin = (Bugzilla_login => $ENV{ADMIN_LOGIN}, Bugzilla_password => $ENV{ADMIN_PASSWORD});
my $window = XMLRPC::Lite->proxy("$ENV{BUGZILLA_URL}xmlrpc.cgi")->call('Bug.search', {%admin, summary => 'The window sticks'})
  ->result->{bugs}->[0]->{id};

for ([http => 42, '--api', $window], [https => 1, '--self-signed']) {
  my ($scheme, $at_least, @options) = @$_;
  my @findings = findings($scheme, @options);
  cmp_ok scalar @findings, '>=', $at_least, "$scheme: the checks were made";
  my @failed = grep { $_->{result} ne 'pass' } @findings;
  is_deeply \@failed, [], "$scheme: and passed" or diag explain \@failed;
}

done_testing;
