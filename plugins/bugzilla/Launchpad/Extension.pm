# SPDX-License-Identifier: MIT OR Apache-2.0

# Lets Launchpad (or another issuer of bug tracker login tokens) log in without a password, and do its work here.
#
#   lib/WebService.pm   the XML-RPC methods Launchpad.*: start reading here
#   lib/Verifier.pm     the question put to the issuer; knows nothing of Bugzilla, and is a copy of Countersign::Verifier
#   lib/Config.pm       the parameters and their checks

package Bugzilla::Extension::Launchpad;

use 5.14.0;
use strict;
use warnings;

use parent qw(Bugzilla::Extension);

use Bugzilla::Constants qw(USAGE_MODE_XMLRPC);

our $VERSION = '0.2.0';

# Bugzilla wants numbers above 10000 of extensions. A number is never given a second meaning.
use constant FAULT_CODES => {
  launchpad_token_malformed    => 10701,
  launchpad_token_refused      => 10702,
  launchpad_issuer_unreachable => 10703,
  launchpad_not_configured     => 10704,
  launchpad_user_unavailable   => 10705,
};

# XML-RPC only: of a JSON-RPC or REST request Bugzilla's own data/errorlog records the body or the URL,
# and the token with it.
sub webservice {
  my ($self, $args) = @_;
  return unless Bugzilla->usage_mode == USAGE_MODE_XMLRPC;
  $args->{dispatch}->{Launchpad} = 'Bugzilla::Extension::Launchpad::WebService';
}

sub webservice_error_codes {
  my ($self, $args) = @_;
  my $codes = FAULT_CODES;
  @{$args->{error_map}}{keys %$codes} = values %$codes;

  # To a session that is over Bugzilla gives no number of its own. Launchpad logs in on this one alone; other callers keep theirs.
  $args->{error_map}->{invalid_cookies_or_token} = $args->{error_map}->{login_required}
    if Bugzilla->request_cache->{launchpad_call};
}

sub config_add_panels {
  my ($self, $args) = @_;
  $args->{panel_modules}->{Launchpad} = 'Bugzilla::Extension::Launchpad::Config';
}

__PACKAGE__->NAME;
