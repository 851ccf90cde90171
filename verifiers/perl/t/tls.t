#!/usr/bin/perl
# SPDX-License-Identifier: MIT OR Apache-2.0

# An issuer is who its certificate says it is, or it is not asked.

use 5.14.0;
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use File::Temp;
use IO::Socket::SSL::Utils qw(CERT_create CERT_free KEY_free PEM_cert2string);
use Test::More;

use Countersign::Verifier;
use StubIssuer;

# An environment that asks for no checks is not obeyed.
$ENV{PERL_LWP_SSL_VERIFY_HOSTNAME} = 0;

# The certificate names 127.0.0.1 only.
my ($certificate, $key) = CERT_create(
  subject         => {commonName => 'stub issuer'},
  subjectAltNames => [[IP => '127.0.0.1']],
  purpose         => 'server',
  CA              => 1,
);
my $tls  = {SSL_cert => $certificate, SSL_key => $key};
my $file = File::Temp->new;
print $file PEM_cert2string($certificate);
close $file;

sub ask {
  my ($url, %more) = @_;
  my $result = Countersign::Verifier->new(issuer => $url, audience => 'http://bugs.example.org/', timeout => 5, %more)->verify('abc');
  return ($result->outcome, $result->reason);
}

subtest 'an authority that is not trusted' => sub {
  my $issuer = StubIssuer->start_secure($tls, '200');
  my ($verdict, $reason) = ask($issuer->url);
  is $verdict, 'unreachable', 'unreachable';
  like $reason, qr/certificate/i, '... because of the certificate';
  is scalar($issuer->requests), 0, '... and the token was not sent';
};

subtest 'a trusted one' => sub {
  local $ENV{SSL_CERT_FILE} = $file->filename;
  my $issuer = StubIssuer->start_secure($tls, '200');
  is_deeply [ask($issuer->url)], [accepted => 'HTTP 200'], 'accepted';
  is scalar($issuer->requests), 1, '... with one request';
};

subtest 'one that is trusted here alone' => sub {
  my $issuer = StubIssuer->start_secure($tls, '200');
  is_deeply [ask($issuer->url, ca_file => $file->filename)], [accepted => 'HTTP 200'], 'accepted';
};

subtest 'a trusted one under another name' => sub {
  local $ENV{SSL_CERT_FILE} = $file->filename;
  my $issuer = StubIssuer->start_secure($tls, '200');
  (my $url = $issuer->url) =~ s/127\.0\.0\.1/localhost/;
  my ($verdict) = ask($url);
  is $verdict, 'unreachable', 'unreachable';
  is scalar($issuer->requests), 0, '... and the token was not sent';
};

subtest 'one that answers slowly' => sub {
  local $ENV{SSL_CERT_FILE} = $file->filename;
  my $issuer = StubIssuer->start_secure($tls, 'slow headers');
  is_deeply [ask($issuer->url, timeout => 0.3)], [unreachable => 'timeout: no whole answer in time'], 'is not believed';
};

subtest 'through a proxy' => sub {
  local $ENV{SSL_CERT_FILE} = $file->filename;
  my $issuer = StubIssuer->start_secure($tls, '200');
  my $proxy  = StubIssuer->start_tunnel($issuer->port);
  is_deeply [ask($issuer->url, proxy => "http://me:secret\@127.0.0.1:${\$proxy->port}")], [accepted => 'HTTP 200'], 'accepted';
  my ($request) = $proxy->requests;
  is $request->{line}, "CONNECT 127.0.0.1:${\$issuer->port} HTTP/1.1", '... which was asked to connect';
  is $request->{headers}->{'proxy-authorization'}, 'Basic bWU6c2VjcmV0', '... with its password';
  ($request) = $issuer->requests;
  is $request->{headers}->{'proxy-authorization'}, undef, '... that the issuer does not get';

  my $refusing = StubIssuer->start('403');
  is_deeply [ask($issuer->url, proxy => "http://127.0.0.1:${\$refusing->port}/")],
    [unreachable => 'the proxy answered HTTP 403'], 'one that refuses';
};

CERT_free($certificate);
KEY_free($key);
done_testing;
