#!/usr/bin/perl -T
# SPDX-License-Identifier: MIT OR Apache-2.0

# The methods for bugs and comments: what they ask of Bugzilla, and how they put its answers. Whether Bugzilla does it is for the
# run in a real one.

use 5.14.0;
use strict;
use warnings;

use lib 't/lib';

use Test::More;

use Bugzilla;
use Bugzilla::Constants;
use Bugzilla::Extension::Launchpad::WebService;

use constant CLASS => 'Bugzilla::Extension::Launchpad::WebService';

require './Launchpad/Config.pm';
require './Launchpad/Extension.pm';

sub fresh {
  my (%caller) = @_;
  Bugzilla::reset_stub();
  $Bugzilla::user = bless {id => 0, %caller}, 'Bugzilla::User';
}

# (result, undef) or (undef, name of the fault).
sub call {
  my ($method, $params) = @_;
  my $result = eval { CLASS->$method($params) };
  return ($result, ref $@ ? $@->{name} : $@ || undef);
}

sub fault { my (undef, $fault) = call(@_); return $fault }
sub ids   { my ($result) = call(get_bugs => $_[0]); return [map { $_->{id} } @{$result->{bugs}}] }

subtest 'who is asked to log in' => sub {
  my %needs = (
    time     => [LOGIN_NORMAL,   {}],
    get_bugs => [LOGIN_NORMAL,   {ids => []}],
    comments => [LOGIN_NORMAL,   {bug_ids => []}],
    add_comment => [LOGIN_REQUIRED, {id => 1, comment => 'x'}],
    set_link    => [LOGIN_REQUIRED, {id => 1, launchpad_id => 5}],
  );
  for my $method (sort keys %needs) {
    my ($type, $params) = @{$needs{$method}};
    fresh();
    is fault($method => $params), $type == LOGIN_REQUIRED ? 'login_required' : undef, "$method without a session";
    is_deeply $Bugzilla::did{logins}, [[$type, 1]], '... as a call of Launchpad, whose faults have their own numbers';
    is $Bugzilla::cache{launchpad_call}, undef, '... and no longer than that';
    is_deeply [@Bugzilla::did{qw(comments links)}], [undef, undef], '... does nothing';

    fresh(id => 42, stale => 1);
    is fault($method => $params), 'invalid_cookies_or_token', '... with one that is over';
    is_deeply [@Bugzilla::did{qw(comments links)}], [undef, undef], '... does nothing';
  }
  fresh(stale => 1);
  my ($result) = call(plugin_version => {});
  is_deeply $result, {version => {string => '0.2.0'}}, 'anybody may know that the extension is here';
  is $Bugzilla::did{logins}, undef, '... without being asked';
};

subtest 'bugs' => sub {
  fresh();
  my ($result) = call(get_bugs => {ids => ['1'], permissive => 1});
  is_deeply $result, {
    bugs => [{
      id        => {int => 1}, alias => [{string => 'squeak'}], status => {string => 'NEW'}, resolution => {string => ''},
      priority  => {string => 'P1'}, severity => {string => 'normal'}, product => {string => 'Door'}, internals => {},
    }]
    },
    'a bug';

  is_deeply ids({ids => [1, 'squeak', 2], permissive => 1}), [{int => 1}, {int => 1}, {int => 2}], 'ids are numbers';
  is_deeply $Bugzilla::did{looked_up}->[-1], [1, 2], '... looked up at once';
  is_deeply ids({ids => [99, 'none', '', {}, 2], permissive => 1}), [{int => 2}], 'unknown ones are left out';
  is_deeply ids({ids => 2}), [{int => 2}], 'one id need not be a list';
  is fault(get_bugs => {ids => [1, 99]}), 'bug_id_does_not_exist', 'unless the caller wants to know';
  is fault(get_bugs => {permissive => 1}), 'param_required', 'some are asked for';
  is_deeply ids({ids => [], permissive => 1}), [], 'none are none';

  for (['CONFIRMED', 'NEW'], ['IN_PROGRESS', 'ASSIGNED'], ['RESOLVED', 'RESOLVED'], ['UNCONFIRMED', 'UNCONFIRMED']) {
    $Bugzilla::bugs{1}->{bug_status} = $_->[0];
    ($result) = call(get_bugs => {ids => [1]});
    is $result->{bugs}->[0]->{status}->{string}, $_->[1], "$_->[0] is $_->[1] to Launchpad";
  }

  $Bugzilla::bugs{2}->{secret} = 1;
  is_deeply ids({ids => [1, 2], permissive => 1}), [{int => 1}], 'one that the caller may not see is left out';
};

subtest 'bugs that have changed' => sub {
  fresh();
  my $since = '2026-11-30 11:00:00';
  is_deeply ids({ids => ['1', '2'], changed_since => $since, permissive => 1}), [{string => '2'}], 'ids are strings then';
  is_deeply ids({ids => ['squeak'], changed_since => '2026-11-30 10:00:00', permissive => 1}), [{string => 'squeak'}],
    '... as they were given, and a change in that second counts';
  is_deeply ids({ids => [1, 2], products => ['Door'], permissive => 1}), [{int => 1}], 'bugs of a product';
  is fault(get_bugs => {ids => [1], changed_since => $_}), 'illegal_date', "'$_' is no date" for 'yesterday', '', '2026-11-30 11:00:00x';
};

subtest 'comments' => sub {
  fresh();
  my $alice = {login => 'alice@example.org', name => 'Alice "Al"  Doe'};
  $Bugzilla::bugs{1}->{comments} = [
    {id => 5, text => 'It squeaks.', time => 'then',  author => $alice},
    {id => 6, text => 'Secretly.',   time => 'later', author => $alice, is_private => 1},
    {id => 7, text => 'It does.',    time => 'later', author => {login => 'bob@example.org', name => ''}},
  ];
  my ($result) = call(comments => {bug_ids => [1]});
  is_deeply $result, {
    bugs => {
      1 => [
        {id => {int => 5}, author => {string => '"Alice \\"Al\\" Doe" <alice@example.org>'}, text => {string => 'It squeaks.'}, time => {dateTime => 'then'}},
        {id => {int => 7}, author => {string => 'bob@example.org'}, text => {string => 'It does.'}, time => {dateTime => 'later'}},
      ]
    }
    },
    'private ones are left out';
  ($result) = call(comments => {bug_ids => ['squeak'], ids => [6, 7, 99], include_fields => ['id']});
  is_deeply $result, {bugs => {squeak => [{id => {int => 7}}]}}, 'some, by id, under the id of the bug as it was given';

  $Bugzilla::user->{is_insider} = 1;
  ($result) = call(comments => {bug_ids => [1], ids => [6], include_fields => ['text']});
  is_deeply $result, {bugs => {1 => [{text => {string => 'Secretly.'}}]}}, 'for an insider they are there';
  $Bugzilla::params{webservice_email_filter} = 1;
  ($result) = call(comments => {bug_ids => [1], ids => [7], include_fields => ['author']});
  is_deeply $result, {bugs => {1 => [{author => {string => 'bob'}}]}}, 'the parameter webservice_email_filter is obeyed';
  is fault(comments => {bug_ids => [99]}), 'bug_id_does_not_exist', 'a bug that is not there';
  is fault(comments => {}), 'param_required', 'no bug';
};

subtest 'a new comment' => sub {
  fresh(id => 42);
  my ($result) = call(add_comment => {id => 1, comment => 'Fixed.', is_private => 1, work_time => 5});
  is_deeply $result, {comment_id => {int => 77}}, 'its id';
  is_deeply $Bugzilla::did{comments}, [{id => 1, comment => 'Fixed.'}], 'is what Bugzilla was asked for, and no more';
};

subtest 'the link' => sub {
  my $link = 'https://launchpad.net/bugs/';
  my $set  = sub {
    my ($number, @links) = @_;
    fresh(id => 42);
    $Bugzilla::bugs{1}->{see_also} = [@links];
    my (undef, $fault) = call(set_link => {id => 1, launchpad_id => $number});
    return $fault || $Bugzilla::did{links};
  };
  is_deeply $set->(5), [{ids => [1], add => ["${link}5"], remove => []}], 'is added';
  is_deeply $set->(5, "${link}4", 'https://bugs.debian.org/1'), [{ids => [1], add => ["${link}5"], remove => ["${link}4"]}], 'is replaced';
  is_deeply $set->(0, "${link}4"), [{ids => [1], add => [], remove => ["${link}4"]}], 'is removed';
  is_deeply $set->($_->[0], @{$_->[1]}), undef, 'is left alone where it is so already' for [5, ["${link}5"]], [0, []];
  fresh(id => 42);
  @{$Bugzilla::bugs{1}}{qw(see_also read_only)} = (["${link}5"], 1);
  is fault(set_link => {id => 1, launchpad_id => $_}), 'product_edit_denied', 'is for who may edit the bug' for 5, 6;
  is $set->($_), 'param_required', 'is no number: ' . ($_ // 'undefined') for undef, '', -1, 'x', '5x', {}, 12345678901;

  my $get = sub {
    fresh();
    $Bugzilla::bugs{1}->{see_also} = [@_];
    my ($result) = call(get_bugs => {ids => [1]});
    return $result->{bugs}->[0]->{internals};
  };
  is_deeply $get->('https://bugs.debian.org/1', "${link}5", "${link}6"), {launchpad_id => {int => 5}}, 'is the first to Launchpad';
  is_deeply $get->('https://bugs.debian.org/1', "${link}5x"), {}, 'is none to anywhere else';
};

done_testing;
