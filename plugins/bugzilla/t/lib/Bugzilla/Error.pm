# SPDX-License-Identifier: MIT OR Apache-2.0

package Bugzilla::Error;

use strict;
use warnings;

use parent qw(Exporter);

our @EXPORT = qw(ThrowCodeError ThrowUserError);

sub ThrowUserError {
  my ($name, $vars) = @_;
  die {name => $name, %{$vars || {}}};
}

sub ThrowCodeError { goto &ThrowUserError }

1;
