#!/usr/bin/perl
# SPDX-License-Identifier: MIT OR Apache-2.0

# Launchpad's own client works in a real Bugzilla with a real Countersign, where LAUNCHPAD_CHECKOUT names a Launchpad. It finds the
# bugs that conversation.t has made. Started by run-in-real-bugzilla.

use 5.14.0;
use strict;
use warnings;
use utf8;

use FindBin qw($Bin);
use IPC::Open2 qw(open2);
use JSON::PP qw(decode_json encode_json);
use Test::More;
use XMLRPC::Lite;

plan skip_all => 'LAUNCHPAD_CHECKOUT must name a checkout of Launchpad' if !$ENV{LAUNCHPAD_CHECKOUT};

my %admin = (Bugzilla_login => $ENV{ADMIN_LOGIN}, Bugzilla_password => $ENV{ADMIN_PASSWORD});

# What Launchpad did about the bugs that it watches, in one run.
sub let_launchpad_work {
  my (@watches) = @_;
  my $pid = open2(my $out, my $in, "$Bin/../../launchpad/run", 'bugzilla', $ENV{BUGZILLA_URL}, $ENV{ISSUER_URL});
  print $in encode_json({watches => \@watches});
  close $in;
  my $report = decode_json(do { local $/; <$out> } || '{}');
  waitpid $pid, 0;
  is $?, 0, 'Launchpad ends well';
  is $report->{error}, undef, '... without an error';
  is_deeply [grep {/\A(?:error|warning)/} @{$report->{log}}], [], '... and without a complaint' or diag explain $report->{log};
  return $report, map { $_->{remote_bug} => $_ } @{$report->{watches}};
}

my $bugs = XMLRPC::Lite->proxy("$ENV{BUGZILLA_URL}xmlrpc.cgi")->call('Bug.search', {%admin, product => 'TestProduct'})->result->{bugs};
my %id = map { $_->{summary} => "$_->{id}" } @$bugs;
my ($door, $window, $safe) = @id{'The door squeaks', 'The window sticks', 'The safe is open'};

my ($report, %watches) = let_launchpad_work(
  {remote_bug => $door,   local_bug => 4711, push    => ['Seen in Ubuntu, too. Déjà vu?']},
  {remote_bug => $window, local_bug => 4712, checked => \1},
  {remote_bug => $safe,   local_bug => 4715},
  {remote_bug => '99999', local_bug => 4716},
);
is $report->{class}, 'BugzillaLPPlugin', 'it chose the plugin';
is $report->{logins}, 1, 'it logged in once, for the first call that was answered 410';
is_deeply $watches{$door}->{status}, ['RESOLVED FIXED', 'FIXRELEASED'], 'a status';
is_deeply $watches{$window}->{status}, ['NEW', 'CONFIRMED'], 'one that Bugzilla calls CONFIRMED, of a bug that has changed since';
is_deeply $watches{$_}->{activity}, [['BUG_NOT_FOUND', undef]], 'one that it may not see, or that is not there' for $safe, '99999';
is_deeply [map { [@$_{qw(name email text)}] } @{$watches{$door}->{imported}}],
  [['Admin', 'admin@example.org', 'The door squeaks. Déjà vu?']], 'a comment in';
is_deeply $watches{$_}->{activity}, [[undef, undef]], 'nothing failed' for $door, $window;
my ($pushed) = @{$watches{$door}->{pushed}};
like $pushed, qr/\A[0-9]+\z/, 'a comment out';

($report, %watches) = let_launchpad_work({remote_bug => $door, local_bug => 4711, checked => \1}, {remote_bug => 'door', local_bug => 4711, checked => \1});
is_deeply $report->{links}, {$door => 4711, door => 4711}, 'the link is read in the next run';
is_deeply [map { $_->{id} } @{$watches{$door}->{imported}}], [$watches{$door}->{imported}->[0]->{id}, $pushed], 'and the comment, under its id';
is $watches{$door}->{imported}->[1]->{text}, "Bob wrote in bug 4711:\nSeen in Ubuntu, too. Déjà vu?", '... as it was put';
is_deeply $watches{door}->{status}, ['RESOLVED FIXED', 'FIXRELEASED'], 'an alias does as well as a number';

done_testing;
