# SPDX-License-Identifier: MIT OR Apache-2.0

package Bugzilla::WebService::Bugzilla;

use strict;
use warnings;

sub time { return {db_time => {dateTime => 'now'}, tz_name => 'UTC'} }

1;
