# SPDX-License-Identifier: MIT OR Apache-2.0

package Bugzilla::Util;

use strict;
use warnings;

use parent qw(Exporter);

our @EXPORT_OK = qw(email_filter generate_random_password);

my @ALPHABET = ('0' .. '9', 'a' .. 'z', 'A' .. 'Z');

sub generate_random_password {
  my ($size) = @_;
  return join '', map { $ALPHABET[rand @ALPHABET] } 1 .. $size;
}

sub email_filter { return $_[0] =~ s/\@.*//r }

1;
