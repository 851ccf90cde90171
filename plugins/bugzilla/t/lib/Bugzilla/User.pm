# SPDX-License-Identifier: MIT OR Apache-2.0

package Bugzilla::User;

use strict;
use warnings;

sub new {
  my ($class, $by) = @_;
  my $row = $Bugzilla::users{$by->{name}} or return undef;
  return bless {%$row}, $class;
}

sub login_to_id {
  my ($login) = @_;
  return $Bugzilla::users{$login} ? $Bugzilla::users{$login}->{id} : 0;
}

sub login      { return $_[0]->{login} }
sub name       { return $_[0]->{name} }
sub is_insider { return $_[0]->{is_insider} }

sub visible_bugs { push @{$Bugzilla::did{looked_up}}, $_[1] }

sub id         { return $_[0]->{id} }
sub is_enabled { return $_[0]->{is_enabled} }

1;
