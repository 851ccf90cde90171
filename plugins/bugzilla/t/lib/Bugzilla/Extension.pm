# SPDX-License-Identifier: MIT OR Apache-2.0

package Bugzilla::Extension;

use strict;
use warnings;

sub new { return bless {}, shift }

1;
