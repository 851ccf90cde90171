# SPDX-License-Identifier: MIT OR Apache-2.0

# The question put to the issuer of a token: "did you give this out, and is it unused?"
# Nothing here knows of Bugzilla, and nothing here logs.

package Bugzilla::Extension::Launchpad::Handshake;

use 5.14.0;
use strict;
use warnings;

use parent qw(Exporter);

use HTTP::Request::Common qw(POST);
use LWP::UserAgent;

our @EXPORT_OK = qw(auth_server_error clean_token handshake_url redeem);

use constant {
  MAX_TOKEN  => 4096,         # characters; usually 20 to 120, but a token may carry what the issuer claims
  MAX_ANSWER => 64 * 1024,    # bytes of a body that is not looked at anyway
  ATTEMPTS   => 2,
};

# The token, untainted, or undef unless it is letters and digits only. It becomes a part of a URL that this
# server requests, so "../+index" and the like must never get past here.
sub clean_token {
  my ($token) = @_;
  return undef if !defined $token;
  my ($clean) = $token =~ /\A([0-9A-Za-z]{1,${\MAX_TOKEN}})\z/;
  return $clean;
}

# What is wrong with a handshake URL template; '' if nothing is.
sub auth_server_error {
  my ($template) = @_;
  return 'must be a URL that starts with http:// or https:// and names a host and a path, without spaces or "#"'
    if $template !~ m{\Ahttps?://[0-9A-Za-z.\-:\[\]]+/[!"\$-~]*\z};

  (my $path = $template) =~ s{\Ahttps?://[^/]+}{};
  return 'must contain %s, where the token goes, exactly once' if (() = $path =~ /%s/g) != 1;
  return 'may contain no % besides %s and percent-encoded characters such as %2B'
    if $path =~ /%(?!s|[0-9A-Fa-f]{2})/;
  return '';
}

# The token's handshake URL, or undef if the template is unusable. `token` comes from clean_token().
sub handshake_url {
  my ($template, $token) = @_;
  return undef if !defined $template || auth_server_error($template) ne '';
  (my $url = $template) =~ s/%s/$token/;
  return $url;
}

# Asks the issuer to consume the token. Never dies. Arguments, by name:
#   url       from handshake_url()
#   token     the same token; only kept out of `reason` with it
#   audience  URL of this tracker, as configured
#   key       a fresh random value; makes the second attempt harmless if only the first one's answer was lost
#   timeout   seconds without any sign of life, for each of at most two attempts
#   proxy     URL of an HTTP proxy, or ''
# Returns (verdict, reason):
#   accepted     the issuer answered exactly 200: the token was good and is used up now
#   refused      it answered 4xx
#   unreachable  neither: no answer, a failing server, a redirect, another 2xx, a bad certificate
# `reason` is one line for the log, without the token.
sub redeem {
  my (%ask) = @_;

  my $request = POST(
    $ask{url},
    [audience => $ask{audience}],
    'Accept'          => 'text/plain',
    'Idempotency-Key' => $ask{key},
  );

  my $agent = _agent(\%ask) // return (unreachable => 'the parameter proxy_url is not a URL');

  my ($status, $message);
  for (1 .. ATTEMPTS) {

    # Not request(): that would follow redirects and try to authenticate.
    ($status, $message) = _read_answer($agent->simple_request($request->clone));
    last if $status && $status < 500;
  }

  return (unreachable => _one_line($message, $ask{token})) if !$status;
  return (accepted    => 'HTTP 200')                       if $status == 200;
  return (refused     => "HTTP $status")                   if $status >= 400 && $status < 500;
  return (unreachable => "HTTP $status");
}

sub _agent {
  my ($ask) = @_;
  my $agent = LWP::UserAgent->new(
    agent             => 'Bugzilla-Launchpad',
    timeout           => $ask->{timeout},
    max_size          => MAX_ANSWER,
    protocols_allowed => ['http', 'https'],

    # Said here so that no environment variable can say otherwise.
    env_proxy => 0,
    ssl_opts  => {verify_hostname => 1},
  );
  return $agent if !$ask->{proxy};
  return eval { $agent->proxy(['http', 'https'], $ask->{proxy}); $agent };
}

# (status, undef), or (0, why) if there was no answer in HTTP. LWP makes one up then: 500 when the connection
# failed, but 200 when something came that has no status line, as in the HTTP of 1991.
sub _read_answer {
  my ($answer) = @_;
  return (0, $answer->message) if ($answer->header('Client-Warning') // '') eq 'Internal response';
  return (0, 'the answer was not HTTP') if ($answer->protocol // '') !~ m{\AHTTP/[1-9]};
  return ($answer->code, undef);
}

sub _one_line {
  my ($text, $token) = @_;
  $text =~ s/\Q$token\E/[token]/g;
  $text =~ s/\s*[\r\n].*//s;
  $text =~ s/[^ -~]/?/g;
  return substr($text, 0, 200);
}

1;
