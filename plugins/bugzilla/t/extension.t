#!/usr/bin/perl -T
# SPDX-License-Identifier: MIT OR Apache-2.0

# What the extension tells Bugzilla about itself, and that its texts keep up with its code.

use 5.14.0;
use strict;
use warnings;

use lib 't/lib';

use Test::More;

use Bugzilla;

is require './Launchpad/Config.pm',    'Launchpad', 'Config.pm returns the name';
is require './Launchpad/Extension.pm', 'Launchpad', 'Extension.pm returns the name';

my $extension = Bugzilla::Extension::Launchpad->new;

sub text_of {
  my ($path) = @_;
  open my $file, '<', $path or die "$path: $!";
  local $/;
  return scalar <$file>;
}

subtest 'the method is there for XML-RPC only' => sub {
  my %dispatch;
  $extension->webservice({dispatch => \%dispatch});
  is_deeply \%dispatch, {Launchpad => 'Bugzilla::Extension::Launchpad::WebService'}, 'XML-RPC';

  local $Bugzilla::usage_mode = Bugzilla::Constants::USAGE_MODE_JSON();
  $extension->webservice({dispatch => \my %none});
  is_deeply \%none, {}, 'not JSON-RPC';
};

subtest 'faults' => sub {
  my %codes = (some_error_of_bugzilla => 1);
  $extension->webservice_error_codes({error_map => \%codes});
  is delete $codes{some_error_of_bugzilla}, 1, 'others are left alone';

  my %of_launchpad = (login_required => 410);
  $Bugzilla::cache{launchpad_call} = 1;
  $extension->webservice_error_codes({error_map => \%of_launchpad});
  is $of_launchpad{invalid_cookies_or_token}, 410, 'for Launchpad a session that is over is none';
  %Bugzilla::cache = ();
  $extension->webservice_error_codes({error_map => \my %of_others});
  ok !exists $of_others{invalid_cookies_or_token}, '... and for other callers it is what it was';

  my $messages = text_of('Launchpad/template/en/default/hook/global/user-error-errors.html.tmpl');
  my $code     = text_of('Launchpad/lib/WebService.pm');
  my $readme   = text_of('README.md');
  my %seen;
  for my $error (sort keys %codes) {
    cmp_ok $codes{$error}, '>', 10000, "$error has a number of an extension";
    is $seen{$codes{$error}}++, 0, '... of its own';
    like $messages, qr/error == "$error"/, '... a message';
    like $code, qr/'$error'/, '... a cause';
    like $readme, qr/^\| $codes{$error} \| `$error` \|/m, '... and a line in README.md';
  }
  is_deeply [sort $code =~ /'(launchpad_(?:token|issuer|user|not)_\w+)'/g], [sort keys %codes], 'no other faults are thrown';
};

subtest 'parameters' => sub {
  $extension->config_add_panels({panel_modules => \my %panels});
  is_deeply \%panels, {Launchpad => 'Bugzilla::Extension::Launchpad::Config'}, 'a panel';
  require Bugzilla::Extension::Launchpad::Config;

  my %list  = map { $_->{name} => $_ } Bugzilla::Extension::Launchpad::Config->get_param_list;
  my $panel = text_of('Launchpad/template/en/default/admin/params/launchpad.html.tmpl');
  my $readme = text_of('README.md');
  for my $name (sort keys %list) {
    is $list{$name}->{checker}->($list{$name}->{default}), '', "$name: the default passes";
    like $panel, qr/^\s+$name =>/m, '... is described in the panel';
    like $readme, qr/^\| `$name` \|/m, '... and in README.md';
  }

  my %good = (
    launchpad_auth_server => ['https://launchpad.net/token/%s/+bugtracker-handshake'],
    launchpad_user        => ['launchpad'],
    launchpad_audience    => ['https://bugs.example.org/', 'http://bugs.example.org:8080/bugzilla/'],
    launchpad_timeout     => [1, 60],
  );
  my %bad = (
    launchpad_auth_server => ['https://launchpad.net/', '%s'],
    launchpad_user        => ['nobody'],
    launchpad_audience    => ['bugs.example.org', 'https://bugs.example.org', 'https://bugs.example.org/?a', "https://a/\n"],
    launchpad_timeout     => ['', 0, 61, 1.5, -1, 'ten', "5\n"],
  );
  for my $name (sort keys %list) {
    is $list{$name}->{checker}->($_), '', "$name: $_ passes" for @{$good{$name}};
    isnt $list{$name}->{checker}->($_), '', "$name: $_ does not" for @{$bad{$name}};
  }
};

done_testing;
