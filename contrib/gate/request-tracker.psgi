# A Request Tracker 5 whose reverse proxy says who is logged in, for any PSGI server, such as
#
#     starman --listen 127.0.0.1:9000 request-tracker.psgi
#
# docs/gate-request-tracker.md says what belongs to it. The path is Debian's.

use strict;
use warnings;
use Plack::Util;

my $rt = Plack::Util::load_psgi('/usr/share/request-tracker5/libexec/rt-server');

sub {
    my ($env) = @_;
    # Only the proxy's header counts: a name that came on another way is ignored.
    delete $env->{REMOTE_USER};
    my $user = delete $env->{HTTP_X_REMOTE_USER} // '';
    if (length $user) {
        $env->{REMOTE_USER} = $user;
    }
    elsif (($env->{PATH_INFO} // '') =~ m{/REST\b}) {
        # RT's own session, which the gate's user has too, ends without REMOTE_USER on RT's pages, but not here.
        delete $env->{HTTP_COOKIE};
    }
    return $rt->($env);
};
