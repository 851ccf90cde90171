#!/usr/bin/perl
# Perl's RPC::XML and LWP in conversation with a running Countersign.
#
# COUNTERSIGN_PRIVATE and COUNTERSIGN_PUBLIC name the base URLs of its two
# listeners. The first answer that differs from the protocol ends the script
# with one sentence and exit status 1. RPC::XML declares its requests as
# us-ascii and sorts every answer by its wire type, so types are checked here.

use strict;
use warnings;
use LWP::UserAgent;
use RPC::XML;
use RPC::XML::Client;

my ( $private, $public ) = @ENV{qw(COUNTERSIGN_PRIVATE COUNTERSIGN_PUBLIC)};
my $tracker = 'https://trac.example.org/';
my $agent   = LWP::UserAgent->new( timeout => 10, max_redirect => 0 );
my $api     = RPC::XML::Client->new( "$private/bugs", useragent => [ timeout => 10 ] );

sub differs {
    my ($sentence) = @_;
    print {*STDERR} "$sentence\n";
    exit 1;
}

sub same {
    my ( $what, $got, $expected ) = @_;
    $got //= 'nothing';
    differs("$what: expected '$expected', got '$got'") if $got ne $expected;
}

# The answer to a call, still in its XML-RPC type: a fault is an answer too.
sub call {
    my ( $method, @parameters ) = @_;
    my $answer = $api->send_request( $method, @parameters );
    differs("$method: $answer") if !ref $answer;
    return $answer;
}

# The answer to a call that must succeed, in the type that it must have.
sub result {
    my ( $type, $method, @parameters ) = @_;
    my $answer = call( $method, @parameters );
    differs( "$method: unexpected fault " . $answer->code . ': ' . $answer->string ) if $answer->is_fault;
    same( "type of the answer to $method", $answer->type, $type );
    return $answer;
}

sub fault {
    my ( $what, $code, $method, @parameters ) = @_;
    my $answer = call( $method, @parameters );
    differs("$what: expected fault $code, got an answer") if !$answer->is_fault;
    same( "$what: fault code", $answer->code, $code );
    differs("$what: the fault carries no sentence") if $answer->string !~ /\w \w/;
}

sub new_token { return result( 'string', 'newBugTrackerToken', @_ )->value }
sub details   { return result( 'struct', 'getLoginToken', @_ ) }

# Where a tracker redeems a token, made from the base URL it was configured with.
sub handshake { my ($token_id) = @_; return "$public/token/$token_id/+bugtracker-handshake" }

sub post {
    my ( $token_id, %form ) = @_;
    return $agent->post( handshake($token_id), \%form );
}

sub answers {
    my ( $what, $response, $status, $text ) = @_;
    same( "$what: status", $response->code, $status );
    return if !defined $text;
    ( my $got = $response->decoded_content ) =~ s/\n\z//;
    same( "$what: text", $got, $text );
}

sub not_consumed {
    my ( $what, $token_id ) = @_;
    my $consumed = details($token_id)->{date_consumed};
    same( "$what: type of date_consumed", $consumed->type,  'boolean' );
    same( "$what: date_consumed",         $consumed->value, 0 );
}

# Issue two tokens and look at one.
my $token_id = new_token();
my $other_id = new_token();
differs('a token is not ASCII letters and digits only') if $token_id !~ /\A[0-9A-Za-z]+\z/;
differs('two tokens are the same')                      if $token_id eq $other_id;

my $token = details($token_id);
same( 'token_id',      $token->{token_id}->value,      $token_id );
same( 'token_type',    $token->{token_type}->value,    'BUGTRACKER' );
same( 'title',         $token->{title}->value,
    'Launchpad is authenticating itself with a remote bug tracker.' );
same( 'handshake_url', $token->{handshake_url}->value, handshake($token_id) );
same( 'audience of an unbound token', $token->{audience}->value, q{} );
same( "type of $_", $token->{$_}->type, 'dateTime.iso8601' ) for qw(date_created date_expires);
not_consumed( 'a fresh token', $token_id );

# The first POST redeems it, and only the first.
answers( 'first POST', post($token_id), 200, 'Handshake token validated.' );
same( 'type of date_consumed after the POST', details($token_id)->{date_consumed}->type, 'dateTime.iso8601' );
my $second = post($token_id);
answers( 'second POST', $second, 401, 'Token has already been used or is invalid.' );
differs('a 401 carries no WWW-Authenticate') if !$second->header('WWW-Authenticate');

# Only POST is accepted, and no other method consumes.
my $get = $agent->get( handshake($other_id) );
answers( 'GET', $get, 405, 'Only POST requests are accepted for bugtracker handshakes.' );
same( 'Allow', scalar $get->header('Allow'), 'POST' );
not_consumed( 'after a GET', $other_id );
answers( 'POST after the GET', post($other_id), 200 );

# A bound token is for its own tracker alone.
my $bound_id = new_token($tracker);
same( 'audience of a bound token', details($bound_id)->{audience}->value, $tracker );
answers( 'bound token, no audience stated', post($bound_id), 403 );
answers( 'bound token, another audience', post( $bound_id, audience => 'https://evil.example.net/' ), 403 );
not_consumed( 'after two refusals', $bound_id );
answers( 'bound token, its audience', post( $bound_id, audience => $tracker ), 200 );

# Faults.
fault( 'a token this server never issued', -32_500, 'getLoginToken', 'nosuchtoken' );
fault( 'a method there is not',            -32_601, 'noSuchMethod' );
fault( 'too few parameters',               -32_602, 'getLoginToken' );
fault( 'a parameter of the wrong type',    -32_602, 'newBugTrackerToken', 42 );

# Introspection.
my %methods = map { $_ => 1 } @{ result( 'array', 'system.listMethods' )->value };
for my $method ( qw(newBugTrackerToken getLoginToken revokeLoginToken),
    map {"system.$_"} qw(listMethods methodSignature methodHelp multicall) )
{
    differs("system.listMethods leaves out $method") if !$methods{$method};
}

# Two calls in one; the fault of one is not the other's.
my $results = result(
    'array',
    'system.multicall',
    [   { methodName => 'newBugTrackerToken', params => [] },
        { methodName => 'getLoginToken',      params => ['nosuchtoken'] },
    ]
)->value;
answers( 'POST of a token issued by multicall', post( $results->[0][0] ), 200 );
same( 'a fault in a multicall', $results->[1]{faultCode}, -32_500 );

# Revoke.
my $revoked_id = new_token();
same( 'revoking a live token', result( 'boolean', 'revokeLoginToken', $revoked_id )->value, 1 );
same( 'revoking it again',     result( 'boolean', 'revokeLoginToken', $revoked_id )->value, 0 );
answers( 'POST of a revoked token', post($revoked_id), 401, 'Token has already been used or is invalid.' );

# Compressed calls.
$api->compress_requests(1);
$api->compress_thresh(1);
answers( 'POST of a token issued by a compressed call', post( new_token() ), 200 );
