# SPDX-License-Identifier: MIT OR Apache-2.0

package Bugzilla::WebService::Util;

use strict;
use warnings;

use parent qw(Exporter);

our @EXPORT_OK = qw(filter validate);

sub filter {
  my ($params, $hash) = @_;
  return $hash if !$params->{include_fields};
  return {map { $_ => $hash->{$_} } grep { exists $hash->{$_} } @{$params->{include_fields}}};
}

# What is asked for by one value may also be asked for by a list.
sub validate {
  my ($self, $params, @keys) = @_;
  for my $key (@keys) {
    $params->{$key} = [$params->{$key}] if exists $params->{$key} && !ref $params->{$key};
  }
  return ($self, $params);
}

1;
