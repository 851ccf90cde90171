# A Redmine whose reverse proxy says who is logged in: a plugin, which goes into the directory plugins of a Redmine 5.
# docs/gate-redmine.md says what belongs to it.

Redmine::Plugin.register :countersign_gate do
  name 'Countersign gate'
  description 'Logs in the user that a trusted reverse proxy names in X-Remote-User'
  version '1.0.0'
  requires_redmine version_or_higher: '5.0'
end

module CountersignGate
  # The users that the gate logs in. They come by the gate alone: Redmine shows them keys of their own (for its API, and in the
  # links to Atom feeds), which outlive the gate's session and which no rule of the gate binds.
  USERS = ['launchpad'].freeze

  # For one request at a time: the proxy's word makes no session of Redmine's, which would outlive the gate's. The JSON API
  # ignores sessions, and knows the user by this all the same.
  def find_current_user
    name = request.get_header('HTTP_X_REMOTE_USER').to_s
    if name.empty?
      user = super
      return USERS.include?(user&.login) ? nil : user
    end
    return nil unless USERS.include?(name)

    user = User.active.find_by(login: name)
    user.remote_ip = request.remote_ip if user
    user
  end
end

ApplicationController.prepend(CountersignGate)
