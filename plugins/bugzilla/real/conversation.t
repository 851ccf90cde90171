#!/usr/bin/perl
# SPDX-License-Identifier: MIT OR Apache-2.0

# What Launchpad's worker does, step by step, in a real Bugzilla with tokens of a real Countersign. The requests and what makes
# an answer usable are facts, seen on the wire; docs/trackers.md has the same steps in its table of what works with Launchpad.
# Started by run-in-real-bugzilla.

use 5.14.0;
use strict;
use warnings;
use utf8;

use FindBin qw($Bin);
use HTTP::Cookies;
use LWP::UserAgent;
use Test::More;
use Time::Local qw(timegm);
use XMLRPC::Lite;

my $url   = $ENV{BUGZILLA_URL};
my %admin = (Bugzilla_login => $ENV{ADMIN_LOGIN}, Bugzilla_password => $ENV{ADMIN_PASSWORD});

sub bugzilla {
  return XMLRPC::Lite->proxy("${url}xmlrpc.cgi", timeout => 60, cookie_jar => HTTP::Cookies->new);
}

sub ok_call {
  my ($client, $method, $params) = @_;
  my $answer = $client->call($method, $params);
  fail "$method: " . $answer->faultstring if $answer->fault;
  return $answer->result;
}

sub text_of {
  my ($path) = @_;
  open my $file, '<:encoding(UTF-8)', $path or die "$path: $!";
  local $/;
  return scalar <$file>;
}

sub string { return XMLRPC::Data->type(string => $_[0]) }

# --- A Bugzilla with an account for the issuer, three bugs, a group and a private comment.

my $admin = sub { my ($method, $params) = @_; return ok_call(bugzilla(), $method, {%$params, %admin}) };

# The account is made, and the parameters are set, by the commands of README.md.
my $robot = 'robot@example.org';
subtest 'the commands of README.md' => sub {
  my ($block) = text_of("$Bin/../README.md") =~ /^## Install.*?^```sh\n(.*?)^```/ms;
  my @commands = grep {/\Aperl /} split /\n/, $block;
  is @commands, 3, 'three, after the extension is there';
  (my $handshake = $ENV{ISSUER_PUBLIC}) .= '/token/%s/+bugtracker-handshake';
  for (@commands) {
    s{https://launchpad\.net/token/%s/\+bugtracker-handshake}{$handshake};
    s{launchpad\@example\.org}{$robot}g;
    is system('sh', '-c', "cd \"\$BUGZILLA_DIR\" && $_"), 0, substr $_, 0, 60;
  }
  is bugzilla()->call('User.login', {login => $robot, password => $_})->faultcode, 300, "the account has no password like '$_'" for '*', 'x';
};
my $new_bug = sub {
  my ($summary, %more) = @_;
  return $admin->('Bug.create', {
    product => 'TestProduct', component => 'TestComponent', version => 'unspecified', summary => $summary, op_sys => 'All',
    platform => 'All', priority => '---', severity => 'normal', description => "$summary. Déjà vu?", %more,
  })->{id};
};
my $door   = $new_bug->('The door squeaks', alias => 'door');
my $window = $new_bug->('The window sticks');
my $secret = $new_bug->('The safe is open');
$admin->('Group.create', {name => 'locksmiths', description => 'Those who know', is_active => 1});
system($^X, "-I$ENV{BUGZILLA_DIR}", '-e', <<'PERL', $ENV{BUGZILLA_DIR}, $secret) == 0 or die 'the groups cannot be set up';
chdir shift;
require Bugzilla;
require Bugzilla::Config;
require Bugzilla::Group;
Bugzilla::Config::SetParam(insidergroup => 'admin');
Bugzilla::Config::write_params();
my $group = Bugzilla::Group->new({name => 'locksmiths'});
Bugzilla->dbh->do('INSERT INTO bug_group_map (bug_id, group_id) VALUES (?, ?)', undef, shift, $group->id);
PERL
$admin->('Bug.update', {ids => [$door], status => 'RESOLVED', resolution => 'FIXED'});
my $private = $admin->('Bug.add_comment', {id => $door, comment => 'The key is under the mat.', is_private => 1})->{id};

# --- The worker. Cookies are kept for one run.

my ($client, $logins);

sub start_run { $client = bugzilla(); $logins = 0 }

sub log_in {
  my $token = XMLRPC::Lite->proxy($ENV{ISSUER_URL})->call('newBugTrackerToken')->result;
  $logins++;
  my $answer = $client->call('Launchpad.login', {token => string($token)});
  ok !$answer->fault, 'the login' or diag $answer->faultstring;
}

# As the worker does it, only in calls that change something: fault 410, and no other, makes it log in.
sub authenticated {
  my ($method, $params) = @_;
  my $answer = $client->call($method, $params);
  return $answer->result if !$answer->fault;
  is $answer->faultcode, 410, "$method is answered so that the worker logs in" or diag $answer->faultstring;
  log_in();
  return ok_call($client, $method, $params);
}

sub get_bugs { return ok_call($client, 'Launchpad.get_bugs', {permissive => 1, @_})->{bugs} }

my @steps = (
  'finds the plugin' => sub {
    ok_call($client, 'Launchpad.plugin_version', undef);
    is $client->call('Launchpad.no_such_method', {})->faultcode, -32601, 'a method that is not there has its usual fault';
  },

  'logs in' => sub {
    authenticated('Launchpad.set_link', {id => $window, launchpad_id => 0});
    is $logins, 1, 'once';
    authenticated('Launchpad.set_link', {id => $window, launchpad_id => 0});
    is $logins, 1, '... and is known from then on';
  },

  'compares the clocks' => sub {
    my ($now) = ok_call($client, 'Launchpad.time', undef)->{utc_time};
    my ($y, $m, $d, @clock) = $now =~ /\A(\d{4})(\d\d)(\d\d)T(\d\d):(\d\d):(\d\d)\z/ or diag $now;
    cmp_ok abs(timegm(reverse(@clock), $d, $m - 1, $y) - time), '<', 600, 'they agree to ten minutes';
  },

  'asks which bugs have changed' => sub {
    my $iso = sub { my @t = gmtime(time + $_[0]); sprintf '%04d%02d%02dT%02d:%02d:%02d', $t[5] + 1900, $t[4] + 1, @t[3, 2, 1, 0] };
    my %asked = (ids => [map { string($_) } $door, $window, 999999]);
    my $since = sub { get_bugs(%asked, changed_since => XMLRPC::Data->type(dateTime => $iso->($_[0]))) };
    is_deeply [map { $_->{id} } @{$since->(-3600)}], [$door, $window], 'those of the last hour';
    is_deeply $since->(3600), [], '... and none from the future';
    $since->(-3600);
    like $client->transport->http_response->content, qr{<string>$door</string>}, 'their ids are strings, like those of the worker';
  },

  'reads statuses' => sub {
    my $bugs = get_bugs(ids => [map { string($_) } $door, $window, 'none', 999999]);
    is_deeply [map { [@$_{qw(id status resolution priority severity product)}] } @$bugs],
      [[$door, 'RESOLVED', 'FIXED', '---', 'normal', 'TestProduct'], [$window, 'NEW', '', '---', 'normal', 'TestProduct']],
      'also of the one that Bugzilla calls CONFIRMED';
    like $client->transport->http_response->content, qr{<name>id</name><value><int>$door</int>}, 'their ids are numbers';
    is_deeply [map { $_->{id} } @{get_bugs(ids => [string('door')])}], [$door], 'by alias, too';
    is_deeply $bugs->[0]->{alias}, ['door'], '... of which the worker is told';
    is_deeply get_bugs(ids => [string($secret)]), [], 'a bug of a group that the worker is not in is left out';
    is_deeply get_bugs(ids => [string($door)], products => ['Another']), [], 'bugs of other products are left out if it wants so';
  },

  'imports comments' => sub {
    my $bugs = ok_call($client, 'Launchpad.comments', {bug_ids => [$door], include_fields => ['id']})->{bugs};
    my @ids = map { $_->{id} } @{$bugs->{$door}};
    is @ids, 1, 'the description is one; the private one is left out';
    is_deeply [keys %{$bugs->{$door}->[0]}], ['id'], 'at first, only their ids are wanted';
    $bugs = ok_call($client, 'Launchpad.comments', {bug_ids => [$door], ids => [@ids, $private]})->{bugs};
    my ($comment, @more) = @{$bugs->{$door}};
    is @more, 0, 'the private one is left out also if it is asked for';
    is $comment->{id}, $ids[0], 'the id';
    is $comment->{author}, '"Admin" <admin@example.org>', 'the author';
    is $comment->{text}, 'The door squeaks. Déjà vu?', 'the text';
    like $comment->{time}, qr/\A\d{8}T/, 'the time';
    is $client->call('Launchpad.comments', {bug_ids => [$secret]})->faultcode, 102, 'those of a bug that it may not see it does not get';
  },

  'adds a comment' => sub {
    my $made = authenticated('Launchpad.add_comment', {id => $window, comment => string('Also seen in Ubuntu. Naïve?')})->{comment_id};
    my ($read) = @{ok_call($client, 'Launchpad.comments', {bug_ids => [$window], ids => [$made]})->{bugs}->{$window}};
    is $read->{text}, 'Also seen in Ubuntu. Naïve?', 'there it is';
    is $read->{author}, qq{"Launchpad" <$robot>}, '... from the configured account';
    is $client->call('Launchpad.add_comment', {id => $secret, comment => string('Hello')})->faultcode, 102, 'not to a bug that it may not see';
    is bugzilla()->call('Launchpad.add_comment', {id => $window, comment => string('Hello')})->faultcode, 410, 'nor without a session';
  },

  'links its bug' => sub {
    my $link = sub { get_bugs(ids => [string($window)])->[0]->{internals}->{launchpad_id} };
    is $link->(), undef, 'there is none at first';
    authenticated('Launchpad.set_link', {id => $window, launchpad_id => 4711});
    is $link->(), 4711, 'it is set';
    my $page = LWP::UserAgent->new->get("${url}show_bug.cgi?id=$window")->decoded_content;
    like $page, qr{href="https://launchpad\.net/bugs/4711"}, 'people can follow it';
    $admin->('Bug.update_see_also', {ids => [$window], add => ['https://bugs.debian.org/cgi-bin/bugreport.cgi?bug=1']});
    authenticated('Launchpad.set_link', {id => $window, launchpad_id => 4712});
    is $link->(), 4712, 'it is replaced';
    is_deeply [sort map {s/\Ahttps?//r} @{$admin->('Bug.get', {ids => [$window]})->{bugs}->[0]->{see_also}}],
      ['://bugs.debian.org/1', '://launchpad.net/bugs/4712'], '... and others stay';
    authenticated('Launchpad.set_link', {id => $window, launchpad_id => 0});
    is $link->(), undef, 'it is removed';
    is $client->call('Launchpad.set_link', {id => 999999, launchpad_id => 1})->faultcode, 101, 'a bug that is not there has none';
    is $client->call('Launchpad.set_link', {id => $secret, launchpad_id => 1})->faultcode, 102, 'nor one that it may not see';
  },

  'logs in again' => sub {
    start_run();
    is @{get_bugs(ids => [string($window)])}, 1, 'a new run reads without a session';
    authenticated('Launchpad.set_link', {id => $window, launchpad_id => 4713});
    is $logins, 1, '... and logs in when it writes';

    # Two sessions that are over: one whose cookies Bugzilla does not know, and one of which the worker still has them.
    $client->transport->cookie_jar->scan(sub { $_[1] eq 'Bugzilla_logincookie' and $_[2] = 'x' x 22 });
    my $jar = HTTP::Cookies->new;
    $client->transport->cookie_jar->scan(sub { $jar->set_cookie(0, $_[1], $_[1] eq 'Bugzilla_logincookie' ? 'x' x 22 : $_[2], @_[3, 4, 5, 6, 7]) });
    $client->transport->cookie_jar($jar);
    authenticated('Launchpad.set_link', {id => $window, launchpad_id => 4714});
    is $logins, 2, 'a session that is over is fault 410, like none';
    is @{get_bugs(ids => [string($window)])}, 1, '... and the new one replaces it';
  },
);

start_run();
my @names;
while (my ($name, $step) = splice @steps, 0, 2) {
  push @names, $name;
  subtest $name => $step;
}

subtest 'a session that is over has its usual fault in the calls of others' => sub {
  my $stale = bugzilla();
  $client->transport->cookie_jar->scan(sub {
    $stale->transport->cookie_jar->set_cookie(0, $_[1], $_[1] eq 'Bugzilla_logincookie' ? 'y' x 22 : $_[2], @_[3, 4, 5, 6, 7]);
  });
  is $stale->call('Bug.get', {ids => [$window]})->faultcode, 32000, 'Bug.get';
  is $stale->call('Launchpad.get_bugs', {ids => [$window]})->faultcode, 410, 'Launchpad.get_bugs';
};

subtest 'who reads without a session' => sub {
  my $page = bugzilla();
  is @{ok_call($page, 'Launchpad.get_bugs', {ids => [$window], permissive => 1})->{bugs}}, 1, 'sees what everybody sees';
  is_deeply ok_call($page, 'Launchpad.get_bugs', {ids => [$secret], permissive => 1})->{bugs}, [], '... and nothing else';
  is $page->call('Launchpad.get_bugs', {ids => [$secret]})->faultcode, 102, '... which is a fault if it wants to know';
};

subtest 'the page lists these steps' => sub {
  my ($table) = text_of("$Bin/../../../docs/trackers.md") =~ /^## What works with Launchpad\n(.*?)^## /ms;
  is_deeply [$table =~ /^\| ([a-z][a-z ]+) \|/mg], \@names, 'in this order';
};

done_testing;
