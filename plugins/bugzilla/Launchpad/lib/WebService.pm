# SPDX-License-Identifier: MIT OR Apache-2.0

package Bugzilla::Extension::Launchpad::WebService;

use 5.14.0;
use strict;
use warnings;

use parent qw(Bugzilla::WebService);

use Bugzilla::Auth::Persist::Cookie;
use Bugzilla::Bug;
use Bugzilla::Constants;
use Bugzilla::Error;
use Bugzilla::Extension::Launchpad::Verifier;
use Bugzilla::User;
use Bugzilla::Util qw(email_filter);
use Bugzilla::WebService::Bug;
use Bugzilla::WebService::Bugzilla;
use Bugzilla::WebService::Util qw(filter validate);

use constant PUBLIC_METHODS => qw(add_comment comments get_bugs login plugin_version set_link time);

# Of every method: login() and plugin_version() are for everybody, and the others log in by themselves, in _log_in().
use constant LOGIN_EXEMPT => {map { $_ => 1 } PUBLIC_METHODS};

# Launchpad knows the statuses of Bugzilla before 4.0. Two have had other names since, under which it would take a bug's status for
# unknown.
use constant STATUSES => {CONFIRMED => 'NEW', IN_PROGRESS => 'ASSIGNED'};

# The link to the issuer's bug is among the URLs of See Also, in the form in which Bugzilla keeps it.
use constant LINK => 'https://launchpad.net/bugs/';

# Launchpad.login({token => "..."}) returns {user_id => N} and sets the login cookies, or throws a fault.
sub login {
  my ($self, $params) = @_;

  my $token = _take_token($params) // ThrowUserError('launchpad_token_malformed');
  my $verifier = _verifier();

  # Before the handshake: a token is not spent on a login that cannot happen.
  my $user = _user();

  my $result = $verifier->verify($token);
  if (!$result) {
    my $refused = $result->outcome eq 'refused' || ($result->status // 0) =~ /\A4/;
    warn 'Launchpad.login: issuer ' . ($refused ? 'refused' : 'unreachable') . ": ${\$result->reason}\n";
    ThrowUserError('launchpad_token_refused') if $refused;
    ThrowUserError('launchpad_issuer_unreachable');
  }

  _start_session($user);
  return {user_id => $self->type('int', $user->id)};
}

# Bugzilla has renamed `token` to `Bugzilla_token`, its own name for a session's key, before this method
# runs. It is taken out, not copied, so that nothing later can mistake it for one.
sub _take_token {
  my ($params) = @_;
  return undef if ref $params ne 'HASH';
  return Bugzilla::Extension::Launchpad::Verifier->clean_token(delete $params->{Bugzilla_token});
}

# An http issuer on another machine is permitted, as it always was; the README advises against it.
sub _verifier {
  my $params = Bugzilla->params;
  my $issuer = $params->{launchpad_auth_server};
  _not_configured('launchpad_auth_server') if ($issuer // '') !~ /%s/;
  my $audience = _audience() || _not_configured('urlbase');

  my $verifier = eval {
    Bugzilla::Extension::Launchpad::Verifier->new(
      issuer              => $issuer,
      audience            => $audience,
      timeout             => $params->{launchpad_timeout},
      allow_insecure_http => 1,
      $params->{proxy_url} ? (proxy => $params->{proxy_url}) : (),
    );
  };
  return $verifier if $verifier;
  warn "Launchpad.login: not configured: $@";
  my ($setting) = $@ =~ /\A(\w+)/;
  my %params = (audience => $params->{launchpad_audience} ? 'launchpad_audience' : 'urlbase', proxy => 'proxy_url', timeout => 'launchpad_timeout');
  _not_configured($params{$setting} // 'launchpad_auth_server');
}

# How the issuer knows this tracker. Only ever configuration: a Host header is the caller's word.
sub _audience {
  my $params = Bugzilla->params;
  return $params->{launchpad_audience}
    || ($params->{ssl_redirect} && $params->{sslbase})
    || $params->{urlbase};
}

sub _user {
  my $login = Bugzilla->params->{launchpad_user} || _not_configured('launchpad_user');
  my $user  = Bugzilla::User->new({name => $login});
  ThrowUserError('launchpad_user_unavailable') if !$user || !$user->is_enabled;
  return $user;
}

sub _not_configured {
  my ($param) = @_;
  ThrowUserError('launchpad_not_configured', {param => $param});
}

# By an answer that is no fault Launchpad tells that the extension is here.
sub plugin_version {
  my ($self) = @_;
  return {version => $self->type('string', $Bugzilla::Extension::Launchpad::VERSION)};
}

# {utc_time}: the clock by which this Bugzilla says when something changed.
sub time {
  my ($self) = @_;
  _log_in(LOGIN_NORMAL);
  return {utc_time => Bugzilla::WebService::Bugzilla->time->{db_time}};
}

# {ids, permissive, changed_since, products}, of which the last three are optional: {bugs => [...]}. A bug that does not exist or
# that the caller may not see is left out if `permissive` says so; otherwise Bugzilla throws its fault.
sub get_bugs {
  my ($self, $params) = validate(@_, 'ids', 'products');
  _log_in(LOGIN_NORMAL);
  my $ids = $params->{ids} // ThrowCodeError('param_required', {function => 'Launchpad.get_bugs', param => 'ids'});
  my %products = map { $_ => 1 } @{$params->{products} || []};
  my $since    = $params->{changed_since};

  # Bugzilla has made a dateTime into its own form, in the time zone of this server, in which it also keeps when a bug changed.
  ThrowUserError('illegal_date', {date => $since}) if defined $since && $since !~ /\A[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:]{8}\z/a;

  # One question to the database, instead of one for each bug.
  Bugzilla->user->visible_bugs([grep { !ref && /\A[0-9]{1,9}\z/a } @$ids]);

  my @bugs;
  for my $id (@$ids) {
    my $bug = eval { Bugzilla::Bug->check(_plain($id)) };
    if (!$bug) {
      next if $params->{permissive};
      die $@;
    }
    next if %products && !$products{$bug->product};
    next if defined $since && $bug->delta_ts lt $since;
    push @bugs, $self->_describe($bug, defined $since ? $id : undef);
  }
  return {bugs => \@bugs};
}

# {bug_ids, ids, include_fields}, of which the last two are optional: {bugs => {ID => [{id, author, text, time}, ...]}}, with the
# ids of bugs as they were given. Comments that the caller may not see are left out.
sub comments {
  my ($self, $params) = validate(@_, 'bug_ids', 'ids');
  _log_in(LOGIN_NORMAL);
  my $bug_ids = $params->{bug_ids} // ThrowCodeError('param_required', {function => 'Launchpad.comments', param => 'bug_ids'});
  my %wanted = map { $_ => 1 } @{$params->{ids} || []};

  my %bugs;
  for my $id (@$bug_ids) {
    my $bug = Bugzilla::Bug->check(_plain($id));
    my @visible = grep { !$_->is_private || Bugzilla->user->is_insider } @{$bug->comments({order => 'oldest_to_newest'})};
    @visible = grep { $wanted{$_->id} } @visible if $params->{ids};
    $bugs{$id} = [map { $self->_describe_comment($_, $params) } @visible];
  }
  return {bugs => \%bugs};
}

# {id, comment}: {comment_id}.
sub add_comment {
  my ($self, $params) = @_;
  _log_in(LOGIN_REQUIRED);
  my $made = Bugzilla::WebService::Bug->add_comment({id => _plain($params->{id}), comment => _plain($params->{comment})});
  return {comment_id => $made->{id}};
}

# {id, launchpad_id}: {}. Replaces the link that get_bugs() shows; 0 removes it. Links that people have added besides stay.
sub set_link {
  my ($self, $params) = @_;
  _log_in(LOGIN_REQUIRED);
  my ($number) = (_plain($params->{launchpad_id}) // '') =~ /\A([0-9]{1,9})\z/a
    or ThrowCodeError('param_required', {function => 'Launchpad.set_link', param => 'launchpad_id'});

  # As for a comment; also where the link is there already, so that who sets it again learns whether it could be changed.
  my $bug  = Bugzilla::Bug->check_for_edit(_plain($params->{id}));
  my $link = _link($bug);
  return {} if ($link // 0) == $number;

  Bugzilla::WebService::Bug->update_see_also({
    ids    => [$bug->id],
    add    => [$number       ? LINK . int $number : ()],
    remove => [defined $link ? LINK . $link       : ()],
  });
  return {};
}

# The caller as far as its cookies say who it is. A session that is over is fault 410 like no session; Bugzilla itself would throw
# another fault before a method runs, and by that Launchpad would not log in again.
sub _log_in {
  my ($type) = @_;
  local Bugzilla->request_cache->{launchpad_call} = 1;
  return Bugzilla->login($type);
}

# A value that is not an array or a struct.
sub _plain { return ref $_[0] ? undef : $_[0] }

# With `changed_since` Launchpad compares the ids with its own, which are strings, and may be aliases; so it gets them back as
# they were. Without, it looks for numbers.
sub _describe {
  my ($self, $bug, $id) = @_;
  my $link = _link($bug);

  # A list since Bugzilla 5.0; Launchpad takes both.
  my @aliases = ref $bug->alias ? @{$bug->alias} : grep {length} $bug->alias // '';
  return {
    id         => defined $id ? $self->type('string', $id) : $self->type('int', $bug->id),
    alias      => [map { $self->type('string', $_) } @aliases],
    status     => $self->type('string', STATUSES->{$bug->bug_status} // $bug->bug_status),
    resolution => $self->type('string', $bug->resolution),
    priority   => $self->type('string', $bug->priority),
    severity   => $self->type('string', $bug->bug_severity),
    product    => $self->type('string', $bug->product),
    internals  => {defined $link ? (launchpad_id => $self->type('int', $link)) : ()},
  };
}

# The number of the first of the issuer's bugs that this one is linked with, if there is one.
sub _link {
  my ($bug) = @_;
  for my $url (map { $_->name } @{$bug->see_also}) {
    return int $1 if $url =~ /\A\Q${\LINK}\E([0-9]{1,9})\z/;
  }
  return undef;
}

sub _describe_comment {
  my ($self, $comment, $params) = @_;

  # Without a session, and with the parameter webservice_email_filter, Bugzilla hides the domain of an address.
  my $author = $comment->author;
  my $login  = $author->login;
  $login = email_filter($login) if Bugzilla->params->{webservice_email_filter};
  my $name = $author->name;
  $name =~ s/\s+/ /g;
  $name =~ s/(["\\])/\\$1/g;
  return filter(
    $params,
    {
      id     => $self->type('int',      $comment->id),
      author => $self->type('string',   $name eq '' ? $login : qq{"$name" <$login>}),
      text   => $self->type('string',   $comment->body_full),
      time   => $self->type('dateTime', $comment->creation_ts),
    }
  );
}

# In a web service persist_login() only returns the session's key; the cookies are left to us.
sub _start_session {
  my ($user) = @_;
  my $key = Bugzilla::Auth::Persist::Cookie->new->persist_login($user);
  Bugzilla->set_user($user);

  my $cgi    = Bugzilla->cgi;
  my $params = Bugzilla->params;
  my %flags  = (-httponly => 1);
  $flags{-secure} = 1 if $params->{ssl_redirect} || _audience() =~ /\Ahttps:/ || lc($ENV{HTTPS} // '') eq 'on';

  # The issuer's cookies are for Bugzilla's own directory, also where its other cookies are for the whole host.
  my ($path) = _audience() =~ m{\Ahttps?://[^/]+(/.*)\z};
  local $params->{cookiepath} = $path if defined $path && ($params->{cookiepath} // '/') eq '/';
  $cgi->send_cookie(-name => 'Bugzilla_login',       -value => $user->id, %flags);
  $cgi->send_cookie(-name => 'Bugzilla_logincookie', -value => $key,      %flags);
}

1;
