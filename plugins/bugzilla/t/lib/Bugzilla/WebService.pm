# SPDX-License-Identifier: MIT OR Apache-2.0

package Bugzilla::WebService;

use strict;
use warnings;

use constant LOGIN_EXEMPT   => {};
use constant READ_ONLY      => ();
use constant PUBLIC_METHODS => ();

sub type {
  my ($self, $type, $value) = @_;
  return {$type => $value};
}

1;
