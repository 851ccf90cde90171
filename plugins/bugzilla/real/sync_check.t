#!/usr/bin/perl
# SPDX-License-Identifier: MIT OR Apache-2.0

# `countersign sync-check` sees a real Bugzilla with tokens of a real Countersign. It looks at the bugs that conversation.t has
# made. Started by run-in-real-bugzilla.

use 5.14.0;
use strict;
use warnings;
use utf8;

use IPC::Open3 qw(open3);
use JSON::PP qw(decode_json);
use Symbol qw(gensym);
use Test::More;
use XMLRPC::Lite;

binmode Test::More->builder->$_, ':encoding(UTF-8)' for qw(output failure_output);

my %admin = (Bugzilla_login => $ENV{ADMIN_LOGIN}, Bugzilla_password => $ENV{ADMIN_PASSWORD});
my $bugs = XMLRPC::Lite->proxy("$ENV{BUGZILLA_URL}xmlrpc.cgi")->call('Bug.search', {%admin, product => 'TestProduct'})->result->{bugs};
my %id = map { $_->{summary} => "$_->{id}" } @$bugs;
my ($window, $safe) = @id{'The window sticks', 'The safe is open'};

# What it prints, having ended with this code.
sub sync_check {
  my ($code, $bug, @options) = @_;
  (my $server = $ENV{ISSUER_URL}) =~ s{/bugs\z}{};
  my $pid = open3(my $in, my $out, my $err = gensym, $ENV{COUNTERSIGN_BIN}, 'sync-check', 'bugzilla', $ENV{BUGZILLA_URL}, $bug,
    '--server', $server, @options);
  close $in;
  my ($printed, $said) = map { local $/; binmode $_, ':encoding(UTF-8)'; scalar <$_> } $out, $err;
  waitpid $pid, 0;
  is $? >> 8, $code, join ' ', "$bug ends with $code", @options or diag $printed, $said;
  return $printed;
}

# In Bugzilla itself.
sub in_bugzilla {
  my ($perl) = @_;
  system('sh', '-c', 'cd "$BUGZILLA_DIR" && exec perl -I. -MBugzilla -MBugzilla::Config=:admin -e "$0"', $perl) == 0
    or die 'the Bugzilla cannot be changed';
}

my $seen = sync_check(0, $window);
like $seen, qr/^login     logged in to \Q$ENV{BUGZILLA_URL}\E as user [0-9]+$/m, 'the login';
like $seen, qr/^clock     agrees with this machine's$/m, 'the clock';
like $seen, qr/^bug       $window: NEW$/m, 'the status, which Bugzilla calls CONFIRMED';
like $seen, qr/^  [0-9]+  \S+Z  "Admin" <admin\@example\.org>: The window sticks\. Déjà vu\?$/m, 'a comment';
like $seen, qr/^a login   asked for, by Launchpad's rules$/m, 'the login that Launchpad is asked for';
like $seen, qr/^comment   could be added; --write adds one$/m, 'no comment is added';

my $parse = sub { my $text = shift; utf8::encode $text; return decode_json($text) };
my $before  = $parse->(sync_check(0, $window, '--json'));
my $written = $parse->(sync_check(0, $window, '--json', '--write'));
my $after   = $parse->(sync_check(0, $window, '--json'));
is @{$after->{comments}}, @{$before->{comments}} + 1, 'only --write adds one';
is $after->{comments}->[-1]->{id}, $written->{comment_added}, '... and says which';
is $after->{bug}->{launchpad_bug}, $before->{bug}->{launchpad_bug}, 'the link stays';

like sync_check(1, $safe), qr/^bug       FAILED: there is no bug $safe, or the issuer's user may not see it/m, 'a bug that it may not see';

in_bugzilla('SetParam(requirelogin => 1); write_params()');
like sync_check(1, $window), qr/^reading   FAILED: .*Launchpad reads without a session/m, 'a Bugzilla with requirelogin';
in_bugzilla('SetParam(requirelogin => 0); write_params()');

in_bugzilla('Bugzilla->dbh->do(q{INSERT INTO group_control_map (group_id, product_id, canedit, entry, membercontrol, othercontrol)
  SELECT g.id, p.id, 1, 0, 0, 0 FROM groups g, products p WHERE g.name = ? AND p.name = ?}, undef, "locksmiths", "TestProduct")');
like sync_check(1, $window), qr/^link      FAILED: .*Launchpad\.set_link answers with fault 109 .*^comment   FAILED: could not be added/ms,
  'a bug that it may not change';
in_bugzilla('Bugzilla->dbh->do("DELETE FROM group_control_map")');

done_testing;
