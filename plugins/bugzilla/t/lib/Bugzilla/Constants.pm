# SPDX-License-Identifier: MIT OR Apache-2.0

package Bugzilla::Constants;

use strict;
use warnings;

use parent qw(Exporter);

our @EXPORT_OK = qw(USAGE_MODE_JSON USAGE_MODE_XMLRPC);

use constant {USAGE_MODE_XMLRPC => 2, USAGE_MODE_JSON => 4};

1;
