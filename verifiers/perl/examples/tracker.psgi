# A bug tracker with a page for everybody, and one for those who logged in with a token.
#
#   TRACKER_URL=http://127.0.0.1:5000/ TRACKER_ISSUER=http://127.0.0.1:8080 plackup tracker.psgi

use 5.14.0;
use warnings;

use Countersign::Verifier;
use Plack::Builder;

my $tracker = sub {
  my ($env) = @_;
  my $login = $env->{'countersign.login'};
  return [200, ['Content-Type' => 'text/plain'], ["Bug 1: Microsoft has a majority market share.\n"]]
    if $env->{PATH_INFO} ne '/private';
  return [403, ['Content-Type' => 'text/plain'], ["Log in first.\n"]] if !$login;
  return [200, ['Content-Type' => 'text/plain'], ["Bug 2, which only $login->{user} may see.\n"]];
};

my $verifier = Countersign::Verifier->new(
  issuer   => $ENV{TRACKER_ISSUER}  // 'http://127.0.0.1:8080',
  audience => $ENV{TRACKER_URL}     // 'http://127.0.0.1:5000/',
  timeout  => $ENV{TRACKER_TIMEOUT} // 5,
);
builder {
  enable 'Countersign', verifier => $verifier;
  $tracker;
};
