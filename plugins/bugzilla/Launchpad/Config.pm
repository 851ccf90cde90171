# SPDX-License-Identifier: MIT OR Apache-2.0

package Bugzilla::Extension::Launchpad;

use 5.14.0;
use strict;
use warnings;

use constant NAME => 'Launchpad';

# Asked for here so that checksetup.pl says what is missing, instead of the first login.
use constant REQUIRED_MODULES => [
  {package => 'IO-Socket-IP',  module => 'IO::Socket::IP',  version => 0.29},
  {package => 'IO-Socket-SSL', module => 'IO::Socket::SSL', version => '1.968'},
];

use constant OPTIONAL_MODULES => [];

__PACKAGE__->NAME;
