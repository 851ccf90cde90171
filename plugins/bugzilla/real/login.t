#!/usr/bin/perl
# SPDX-License-Identifier: MIT OR Apache-2.0

# Launchpad.login in a real Bugzilla with tokens of a real Countersign. Started by run-in-real-bugzilla.

use 5.14.0;
use strict;
use warnings;

use FindBin qw($Bin);
use HTML::Entities qw(decode_entities);
use HTTP::Cookies;
use HTTP::Request;
use IO::Socket::INET;
use JSON::PP qw(decode_json encode_json);
use LWP::UserAgent;
use Test::More;
use XMLRPC::Lite;

my ($url, $dir) = @ENV{qw(BUGZILLA_URL BUGZILLA_DIR)};
my %admin = (Bugzilla_login => $ENV{ADMIN_LOGIN}, Bugzilla_password => $ENV{ADMIN_PASSWORD});
my @tokens;

# A client of its own for every session.
sub bugzilla {
  my $client = XMLRPC::Lite->proxy("${url}xmlrpc.cgi", timeout => 60, cookie_jar => HTTP::Cookies->new);
  $client->transport->requests_redirectable([]);
  return $client;
}

sub new_token {
  my (@audience) = @_;
  my $answer = XMLRPC::Lite->proxy($ENV{ISSUER_URL})->call('newBugTrackerToken', map { XMLRPC::Data->type(string => $_) } @audience);
  die 'no token: ' . $answer->faultstring if $answer->fault;
  push @tokens, $answer->result;
  return $answer->result;
}

sub login {
  my ($client, $token) = @_;
  return $client->call('Launchpad.login', {token => XMLRPC::Data->type(string => $token)});
}

sub is_fault {
  my ($answer, $code, $text, $what) = @_;
  is $answer->faultcode, $code, $what or diag explain $answer->result;
  like $answer->faultstring, $text, '... with a message';
}

sub cookies_of {
  my ($client) = @_;
  my %cookies;
  $client->transport->cookie_jar->scan(sub { my (undef, $name, $value) = @_; $cookies{$name} = $value });
  return \%cookies;
}

sub text_of {
  my ($path) = @_;
  open my $file, '<', $path or die "$path: $!";
  local $/;
  return scalar <$file>;
}

# A proxy that passes everything on but loses the first answer, until its process ends. Returns its URL and process id.
sub forgetful_proxy {
  my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 5) or die "cannot listen: $!";
  my $pid      = fork() // die "cannot fork: $!";
  return ("http://127.0.0.1:${\$listener->sockport}/", $pid) if $pid;

  my $lost = 0;
  while (my $socket = $listener->accept) {
    my ($to) = read_head($socket) =~ m{\ACONNECT (\S+) } or die 'it is a proxy for CONNECT only';
    print $socket "HTTP/1.1 200 Connection established\r\n\r\n";
    my $request = HTTP::Request->parse(read_head($socket));
    $request->uri("http://$to${\$request->uri}");
    read $socket, my $body, $request->content_length // 0;
    $request->content($body);
    my $answer = LWP::UserAgent->new->simple_request($request);
    $answer->header(Connection => 'close');
    print $socket 'HTTP/1.1 ', $answer->status_line, "\r\n", $answer->headers->as_string("\r\n"), "\r\n", $answer->content if $lost++;
    close $socket;
  }
  exit 0;
}

sub read_head {
  my ($socket) = @_;
  my $head = '';
  while (defined(my $line = <$socket>)) { $head .= $line; last if $line eq "\r\n" }
  return $head;
}

# The answer to one web request of the admin, without the entities that Bugzilla likes to write.
sub admin_page {
  my ($path, @form) = @_;
  state $agent = do {
    my $made = LWP::UserAgent->new(cookie_jar => HTTP::Cookies->new, timeout => 60);
    $made->get("${url}index.cgi");
    my ($login_token) = $made->get("${url}index.cgi?GoAheadAndLogIn=1")->decoded_content =~ /name="Bugzilla_login_token"\s+value="([^"]*)"/;
    $made->post("${url}index.cgi", {%admin, Bugzilla_login_token => $login_token, GoAheadAndLogIn => 'Log in'});
    $made;
  };
  my $answer = @form ? $agent->post("$url$path", @form) : $agent->get("$url$path");
  return decode_entities($answer->decoded_content);
}

subtest 'before the account exists' => sub {
  my $token = new_token($url);
  is_fault(login(bugzilla(), $token), 10705, qr/launchpad_user/, 'no login');

  my $answer = bugzilla()->call('User.create', {%admin, email => $ENV{LAUNCHPAD_USER}, full_name => 'Launchpad', password => 'never-Used-9'});
  ok !$answer->fault, 'the admin creates it' or diag $answer->faultstring;
  ok !login(bugzilla(), $token)->fault, 'the same token is still good';
};

my $session = bugzilla();

subtest 'a token for this tracker' => sub {
  my $bugs = new_token($url);
  my $answer = login($session, $bugs);
  ok !$answer->fault, 'no fault' or diag $answer->faultstring;
  like $answer->result->{user_id}, qr/\A\d+\z/, 'a user id';
  is_deeply [keys %{$answer->result}], ['user_id'], '... and nothing else';

  my $cookies = cookies_of($session);
  is_deeply [sort keys %$cookies], [qw(Bugzilla_login Bugzilla_logincookie)], 'two cookies';
  is $cookies->{Bugzilla_login}, $answer->result->{user_id}, '... with the user id';

  # Without a login, Bugzilla lists users by name only.
  my %by_id = (ids => [$answer->result->{user_id}]);
  is bugzilla()->call('User.get', {%by_id})->faultcode, 505, 'a stranger may not ask for a user by id';
  my $user = $session->call('User.get', {%by_id});
  ok !$user->fault, 'the session may' or diag $user->faultstring;
  is $user->result->{users}->[0]->{name}, $ENV{LAUNCHPAD_USER}, '... and is the configured account';

  my $page = LWP::UserAgent->new(cookie_jar => $session->transport->cookie_jar)->get("${url}index.cgi")->decoded_content;
  $page = decode_entities($page);
  like $page, qr/\Q$ENV{LAUNCHPAD_USER}\E/, 'pages know the session, too';
  like $page, qr/logout=1/, '... and offer to log out';

  is_fault(login(bugzilla(), $bugs), 10702, qr/refused/, 'a second use is refused');
  ok !$session->call('User.get', {%by_id})->fault, '... and does not harm the first one';
};

subtest 'a token as long as they get' => sub {
  (my $issuer = $ENV{ISSUER_URL}) =~ s{/bugs\z}{/v1/tokens};
  my $asked = {audience => $url, claims => {about => 'x' x 1000}};
  my $made  = LWP::UserAgent->new->post($issuer, 'Content-Type' => 'application/json', Content => encode_json($asked));
  my $token = decode_json($made->decoded_content)->{token_id};
  cmp_ok length $token, '>', 1000, 'it carries a thousand bytes of claims';
  ok !login(bugzilla(), $token)->fault, 'and is good';
};

subtest 'cookies are for HTTP only' => sub {
  my $request = HTTP::Request->new(POST => "${url}xmlrpc.cgi", ['Content-Type' => 'text/xml'],
    XMLRPC::Serializer->envelope(method => 'Launchpad.login', {token => XMLRPC::Data->type(string => new_token($url))}));
  my $answer = LWP::UserAgent->new->request($request);
  my @login  = grep {/\ABugzilla_login(?:cookie)?=/} $answer->header('Set-Cookie');
  is @login, 2, 'two cookies';
  like $_, qr/;\s*HttpOnly/i, $_ =~ s/=.*//sr for @login;
};

subtest 'the check in README.md' => sub {
  my ($check) = text_of("$Bin/../README.md") =~ /^## Check.*?^```sh\n(.*?)^```/ms;
  (my $issuer = $ENV{ISSUER_URL}) =~ s{/bugs\z}{};
  ok $check =~ s{http://127\.0\.0\.1:8087}{$issuer} && $check =~ s{https://bugs\.example\.org/}{$url}g, 'names both servers';
  open my $bash, '-|', 'bash', '-c', $check or die "no bash: $!";
  my $answer = join '', <$bash>;
  like $answer, qr/<name>user_id<\/name>/, 'logs in' or diag $answer;
  like $answer, qr/^Set-Cookie: $_=/m, "... and gives $_" for qw(Bugzilla_login Bugzilla_logincookie);
};

subtest 'refused tokens' => sub {
  is_fault(login(bugzilla(), new_token('https://another.example.org/')), 10702, qr/refused/, 'for another tracker');
  is_fault(login(bugzilla(), 'cs1' . 'a' x 80), 10702, qr/refused/, 'never issued');
  ok !login(bugzilla(), new_token())->fault, 'one for no tracker in particular is as good as in the original protocol';
};

subtest 'malformed tokens' => sub {
  is_fault(login(bugzilla(), $_), 10701, qr/letters and digits/, "'$_'") for '', '../+index', 'abc def', "abc\n";
  is_fault(bugzilla()->call('Launchpad.login', {}), 10701, qr/letters and digits/, 'none');
  is_fault(bugzilla()->call('Launchpad.login'),     10701, qr/letters and digits/, 'no parameters');
  is_fault(bugzilla()->call('Launchpad.login', {token => [1]}), 10701, qr/letters and digits/, 'an array');
};

subtest 'nothing else is offered' => sub {
  is bugzilla()->call("Launchpad.$_", {})->faultcode, -32601, $_ for qw(_start_session clean_token redeem);
  my $token = new_token($url);
  my %call = (version => '1.1', id => 1, params => [{token => $token}]);
  my $json = sub {
    my ($method) = @_;
    return LWP::UserAgent->new->post("${url}jsonrpc.cgi", 'Content-Type' => 'application/json',
      Content => encode_json({%call, method => $method}))->decoded_content;
  };
  like $json->('Bugzilla.version'), qr/"version":"5\./, 'JSON-RPC is there';
  unlike $json->('Launchpad.login'), qr/user_id/, '... but logs nobody in';
  ok !login(bugzilla(), $token)->fault, '... which leaves the token alone';
};

subtest 'parameters' => sub {
  my $panel = admin_page('editparams.cgi?section=launchpad');
  like $panel, qr/id="$_"/, "$_ has a field" for qw(launchpad_auth_server launchpad_user launchpad_audience launchpad_timeout);
  like $panel, qr/Whoever answers there decides/, 'and there are descriptions';

  my ($form_token) = $panel =~ /name="token" value="([^"]+)"/;
  my %now  = $panel =~ /name="(launchpad_\w+)"\s+id="\w+" value="([^"]*)"/g;
  is keys %now, 4, 'four values' or diag $panel;
  my $save = sub {
    my (%changes) = @_;
    return admin_page('editparams.cgi', {%now, %changes, section => 'launchpad', action => 'save', token => $form_token});
  };
  like $save->(launchpad_auth_server => 'https://launchpad.net/'), qr/must contain %s/,         'a bad URL is not saved';
  like $save->(launchpad_user => 'nobody@example.org'),            qr/no account has this login/, 'nor an account that is not there';
  like $save->(launchpad_timeout => 0),                            qr/from 1 to 60/,              'nor a bad timeout';

  like $save->(launchpad_audience => 'https://tracker.example.org/bugs/'), qr/parameters/i, 'an audience is';
  is_fault(login(bugzilla(), new_token($url)), 10702, qr/refused/, '... and the token for urlbase is refused');
  ok !login(bugzilla(), new_token('https://tracker.example.org/bugs/'))->fault, '... and one for that audience is not';

  ($form_token) = admin_page('editparams.cgi?section=launchpad') =~ /name="token" value="([^"]+)"/;
  my $token = new_token($url);
  $save->(launchpad_audience => '', launchpad_auth_server => '');
  is_fault(login(bugzilla(), $token), 10704, qr/launchpad_auth_server/, 'without an issuer there is no login');

  ($form_token) = admin_page('editparams.cgi?section=launchpad') =~ /name="token" value="([^"]+)"/;
  $save->(launchpad_audience => '');
  ok !login(bugzilla(), $token)->fault, 'with it there is';
};

subtest 'a lost answer' => sub {
  my ($proxy, $pid) = forgetful_proxy();
  my $set = sub {
    my $panel = admin_page('editparams.cgi?section=advanced');
    my %now   = $panel =~ /<input[^>]*name="((?!reset)\w+)"[^>]*value="([^"]*)"/g;
    my ($hsts) = $panel =~ /<option value="(\w+)"\s+selected/;
    return admin_page('editparams.cgi', {%now, strict_transport_security => $hsts, proxy_url => $_[0], action => 'save'});
  };
  like $set->($proxy), qr/proxy_url/, 'Bugzilla reaches the issuer through a proxy that loses its first answer';

  my $token = new_token($url);
  ok !login(bugzilla(), $token)->fault, 'the token is good all the same';
  is_fault(login(bugzilla(), $token), 10702, qr/refused/, '... once');

  kill TERM => $pid;
  waitpid $pid, 0;
  $set->('');
  ok !login(bugzilla(), new_token($url))->fault, 'without the proxy all is as before';
};

subtest 'a disabled account' => sub {
  my $set = sub { bugzilla()->call('User.update', {%admin, names => [$ENV{LAUNCHPAD_USER}], login_denied_text => $_[0]}) };
  my $token = new_token($url);
  ok !$set->('not today')->fault, 'the admin disables it';
  is_fault(login(bugzilla(), $token), 10705, qr/disabled/, 'no login');
  ok !$set->('')->fault, 'the admin enables it';
  ok !login(bugzilla(), $token)->fault, 'the same token is still good';
};

subtest 'the issuer is down' => sub {
  my $token = new_token($url);
  kill TERM => $ENV{ISSUER_PID};
  for (1 .. 100) {
    last if LWP::UserAgent->new->get($ENV{ISSUER_URL})->header('Client-Warning');
    select undef, undef, undef, 0.1;
  }
  is_fault(login(bugzilla(), $token), 10703, qr/no usable answer/, 'no login');
};

subtest 'tokens leave no trace' => sub {
  my $errors = text_of("$dir/data/errorlog");
  like $errors, qr/launchpad_token_refused/, "Bugzilla's error log was kept";
  my $log = text_of($ENV{BUGZILLA_LOG});
  like $log, qr/Launchpad\.login: issuer refused: HTTP 40\d/, 'the server log says why a login failed';
  like $log, qr/Launchpad\.login: issuer unreachable: .*refused/, '... also without an issuer';
  is scalar(grep { index($errors, $_) >= 0 } @tokens), 0, 'no token in the error log';
};

done_testing;
