# SPDX-License-Identifier: MIT OR Apache-2.0

package Bugzilla::WebService::Bug;

use strict;
use warnings;

# Bugzilla's own methods, of which a test sees what they were asked to do.
sub add_comment     { push @{$Bugzilla::did{comments}}, $_[1]; return {id => {int => 77}} }
sub update_see_also { push @{$Bugzilla::did{links}},    $_[1]; return {} }

1;
