# SPDX-License-Identifier: MIT OR Apache-2.0

package Bugzilla::Bug;

use 5.14.0;
use strict;
use warnings;

sub check {
  my ($class, $id) = @_;
  my ($bug) = grep { my $row = $_; defined $id && grep { $_ eq $id } $row->{bug_id}, @{$row->{alias}} } values %Bugzilla::bugs;
  die {name => 'bug_id_does_not_exist'} if !$bug;
  die {name => 'bug_access_denied'}     if $bug->{secret} && !Bugzilla->user->{id};
  return bless {%$bug}, $class;
}

sub check_for_edit {
  my $self = shift->check(@_);
  die {name => 'product_edit_denied'} if $self->{read_only};
  return $self;
}

sub id           { return $_[0]->{bug_id} }
sub alias        { return $_[0]->{alias} }
sub product      { return $_[0]->{product} }
sub delta_ts     { return $_[0]->{delta_ts} }
sub bug_status   { return $_[0]->{bug_status} // 'NEW' }
sub resolution   { return '' }
sub priority     { return 'P1' }
sub bug_severity { return 'normal' }
sub see_also     { return [map { bless {name => $_}, 'Bugzilla::BugUrl' } @{$_[0]->{see_also}}] }

sub comments {
  my ($self, $how) = @_;
  die 'in no order' if $how->{order} ne 'oldest_to_newest';
  return [map { bless $_, 'Bugzilla::Comment' } @{$self->{comments}}];
}

sub Bugzilla::BugUrl::name { return $_[0]->{name} }

{
  package Bugzilla::Comment;
  sub id          { return $_[0]->{id} }
  sub is_private  { return $_[0]->{is_private} }
  sub body_full   { return $_[0]->{text} }
  sub creation_ts { return $_[0]->{time} }
  sub author      { return bless $_[0]->{author}, 'Bugzilla::User' }
}

1;
