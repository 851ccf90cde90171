# SPDX-License-Identifier: MIT OR Apache-2.0

# A stand-in for as much of Bugzilla as the extension touches. Every package notes what it was asked to do in
# %Bugzilla::did, for the tests to look at. It also finds the extension's modules the way Bugzilla does.

package Bugzilla;

use 5.14.0;
use strict;
use warnings;

use Bugzilla::Constants qw(USAGE_MODE_XMLRPC);

our (%params, %users, %did, $usage_mode);

# A configured installation with one account. Tests change %params and %users from here.
sub reset_stub {
  %did        = ();
  $usage_mode = USAGE_MODE_XMLRPC;
  %users      = (launchpad => {id => 42, login => 'launchpad', is_enabled => 1});
  %params     = (
    urlbase               => 'http://bugs.example.org/',
    sslbase               => '',
    ssl_redirect          => 0,
    proxy_url             => '',
    launchpad_auth_server => 'http://127.0.0.1:1/token/%s/+bugtracker-handshake',
    launchpad_user        => 'launchpad',
    launchpad_audience    => '',
    launchpad_timeout     => 5,
  );
}

sub params     { return \%params }
sub usage_mode { return $usage_mode }
sub cgi        { return bless {}, 'Bugzilla::CGI' }
sub set_user   { $did{set_user} = $_[1] }

sub Bugzilla::CGI::send_cookie {
  my ($self, %cookie) = @_;
  $did{cookies}->{$cookie{-name}} = \%cookie;
}

unshift @INC, sub {
  my (undef, $file) = @_;
  my ($module) = $file =~ m{\ABugzilla/Extension/Launchpad/(\w+\.pm)\z} or return;
  open my $handle, '<', "Launchpad/lib/$module" or return;
  $INC{$file} = "Launchpad/lib/$module";
  return $handle;
};

reset_stub();
1;
