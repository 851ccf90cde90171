package Bugzilla::Extension::CountersignGate;

use 5.14.0;
use strict;
use warnings;

use constant NAME => 'CountersignGate';
use constant REQUIRED_MODULES => [];
use constant OPTIONAL_MODULES => [];

__PACKAGE__->NAME;
