# SPDX-License-Identifier: MIT OR Apache-2.0

package Bugzilla::Extension::Launchpad;

use 5.14.0;
use strict;
use warnings;

use constant NAME => 'Launchpad';

# LWP::Protocol::https is asked for here so that checksetup.pl says it is missing, instead of the first login.
use constant REQUIRED_MODULES => [
  {package => 'libwww-perl',         module => 'LWP::UserAgent',       version => 6},
  {package => 'LWP-Protocol-https',  module => 'LWP::Protocol::https', version => 6},
];

use constant OPTIONAL_MODULES => [];

__PACKAGE__->NAME;
