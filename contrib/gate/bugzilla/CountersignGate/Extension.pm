# A Bugzilla whose reverse proxy says who is logged in: an extension, which goes into the directory extensions of a Bugzilla 5.2,
# or 5.0.4 and later, whose login is `Env`. docs/gate-bugzilla.md says what belongs to it.

package Bugzilla::Extension::CountersignGate;

use 5.14.0;
use strict;
use warnings;

use parent qw(Bugzilla::Extension);

use Bugzilla::Constants qw(AUTH_LOGINFAILED);

our $VERSION = '1.0.0';

# The users that the gate logs in, in lower case. They come by the gate alone: not by a password, a cookie or an API key, which
# outlive the gate's session and which no rule of the gate binds.
our %USERS = map { $_ => 1 } ('launchpad@example.org');

# The pages that give a user such things: an API key, a new password or a new address.
our $CREDENTIALS = qr{/(?:userprefs|token|relogin|createaccount)\.cgi$};

# Each way to log in ends here, with a user or with nobody: a cookie and an API key, too, and each class that verifies a password.
sub auth_verify_methods {
  state $wrapped = 0;
  return if $wrapped++;
  my $find = \&Bugzilla::Auth::Verify::create_or_update_user;
  no warnings 'redefine';
  *Bugzilla::Auth::Verify::create_or_update_user = sub {
    my ($self, $params) = @_;
    my $refused = {failure => AUTH_LOGINFAILED};
    my $name    = lc($ENV{HTTP_X_REMOTE_USER} // '');
    return $refused if $name ne '' && (!$USERS{$name} || ($ENV{SCRIPT_NAME} // '') =~ $CREDENTIALS);
    my $found = $find->($self, $params);
    my $login = lc($found->{user} ? $found->{user}->login : '');
    return $refused if $name eq '' ? $USERS{$login} : $login ne $name;
    return $found;
  };
}

__PACKAGE__->NAME;
