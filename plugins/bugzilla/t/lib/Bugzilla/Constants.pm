# SPDX-License-Identifier: MIT OR Apache-2.0

package Bugzilla::Constants;

use strict;
use warnings;

use parent qw(Exporter);

our @EXPORT = qw(LOGIN_NORMAL LOGIN_REQUIRED USAGE_MODE_JSON USAGE_MODE_XMLRPC);

use constant {LOGIN_NORMAL => 1, LOGIN_REQUIRED => 2, USAGE_MODE_XMLRPC => 2, USAGE_MODE_JSON => 4};

1;
