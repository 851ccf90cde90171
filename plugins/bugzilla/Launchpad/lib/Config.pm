# SPDX-License-Identifier: MIT OR Apache-2.0

package Bugzilla::Extension::Launchpad::Config;

use 5.14.0;
use strict;
use warnings;

use Bugzilla::Extension::Launchpad::Verifier;

our $sortkey = 1800;

# A checker returns '' when the value is fine, else what is wrong with it, to which Bugzilla adds the full stop.
sub get_param_list {
  return (
    {name => 'launchpad_auth_server', type => 't', default => '', checker => \&_check_auth_server},
    {name => 'launchpad_user',        type => 't', default => '', checker => \&_check_user},
    {name => 'launchpad_audience',    type => 't', default => '', checker => \&_check_audience},
    {name => 'launchpad_timeout',     type => 't', default => 10, checker => \&_check_timeout},
  );
}

sub _check_auth_server {
  my ($value) = @_;
  return $value eq '' ? '' : Bugzilla::Extension::Launchpad::Verifier->issuer_error($value);
}

sub _check_user {
  my ($value) = @_;
  return '' if $value eq '';

  # Not at the top: Bugzilla::User itself needs the parameters to be loaded.
  require Bugzilla::User;
  return Bugzilla::User::login_to_id($value) ? '' : 'no account has this login name; create it first';
}

sub _check_audience {
  my ($value) = @_;
  return '' if $value eq '' || $value =~ m{/\z} && Bugzilla::Extension::Launchpad::Verifier->audience_error($value) eq '';
  return 'must be empty or the URL of this installation, as http(s)://host/path/';
}

sub _check_timeout {
  my ($value) = @_;
  return '' if $value =~ /\A[0-9]{1,2}\z/ && Bugzilla::Extension::Launchpad::Verifier->timeout_error($value) eq '';
  return 'must be a whole number of seconds from 1 to ' . Bugzilla::Extension::Launchpad::Verifier::MAX_TIMEOUT;
}

1;
