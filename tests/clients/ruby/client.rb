# Ruby's XMLRPC::Client and Net::HTTP in conversation with a running Countersign.
#
# COUNTERSIGN_PRIVATE and COUNTERSIGN_PUBLIC name the base URLs of its two
# listeners. The first answer that differs from the protocol ends the script
# with one sentence and exit status 1. This client refuses an answer that is
# not text/xml or whose Content-Length is not its length.

require 'net/http'
require 'xmlrpc/client'

PRIVATE = ENV.fetch('COUNTERSIGN_PRIVATE')
PUBLIC = ENV.fetch('COUNTERSIGN_PUBLIC')
TRACKER = 'https://trac.example.org/'
API = XMLRPC::Client.new2("#{PRIVATE}/bugs", nil, 10)

def same(what, got, expected)
  abort "#{what}: expected #{expected.inspect}, got #{got.inspect}" unless got == expected
end

def holds(what, truth)
  abort "#{what}: it is not so" unless truth
end

def fault(what, code, *call)
  result = API.call(*call)
rescue XMLRPC::FaultException => refusal
  same "#{what}: fault code", refusal.faultCode, code
  holds "#{what}: the fault carries a sentence", refusal.faultString.include?(' ')
else
  abort "#{what}: expected fault #{code}, got #{result.inspect}"
end

# Where a tracker redeems a token, made from the base URL it was configured with.
def handshake(token_id)
  URI("#{PUBLIC}/token/#{token_id}/+bugtracker-handshake")
end

def post(token_id, form = {})
  Net::HTTP.post_form(handshake(token_id), form)
end

def answers(what, response, status, text = nil)
  same "#{what}: status", response.code, status.to_s
  same "#{what}: text", response.body.chomp, text if text
end

def date_consumed(token_id)
  API.call('getLoginToken', token_id)['date_consumed']
end

# Issue two tokens and look at one.
token_id = API.call('newBugTrackerToken')
other_id = API.call('newBugTrackerToken')
holds 'a token is ASCII letters and digits only', token_id.match?(/\A[0-9A-Za-z]+\z/)
holds 'two tokens differ', token_id != other_id

token = API.call('getLoginToken', token_id)
same 'token_id', token['token_id'], token_id
same 'token_type', token['token_type'], 'BUGTRACKER'
same 'title', token['title'], 'Launchpad is authenticating itself with a remote bug tracker.'
same 'handshake_url', token['handshake_url'], handshake(token_id).to_s
same 'audience of an unbound token', token['audience'], ''
same 'date_consumed of a fresh token', token['date_consumed'], false
dates = token.values_at('date_created', 'date_expires')
holds 'date_created and date_expires are dates', dates.all?(XMLRPC::DateTime)
holds 'date_expires is after date_created', dates[0].to_time < dates[1].to_time

# The first POST redeems it, and only the first.
answers 'first POST', post(token_id), 200, 'Handshake token validated.'
holds 'date_consumed is a date after the POST', date_consumed(token_id).is_a?(XMLRPC::DateTime)
second = post(token_id)
answers 'second POST', second, 401, 'Token has already been used or is invalid.'
holds 'a 401 carries WWW-Authenticate', second['WWW-Authenticate']

# Only POST is accepted, and no other method consumes.
get = Net::HTTP.get_response(handshake(other_id))
answers 'GET', get, 405, 'Only POST requests are accepted for bugtracker handshakes.'
same 'Allow', get['Allow'], 'POST'
same 'date_consumed after a GET', date_consumed(other_id), false
answers 'POST after the GET', post(other_id), 200

# A bound token is for its own tracker alone.
bound_id = API.call('newBugTrackerToken', TRACKER)
same 'audience of a bound token', API.call('getLoginToken', bound_id)['audience'], TRACKER
answers 'bound token, no audience stated', post(bound_id), 403
answers 'bound token, another audience', post(bound_id, 'audience' => 'https://evil.example.net/'), 403
same 'date_consumed after two refusals', date_consumed(bound_id), false
answers 'bound token, its audience', post(bound_id, 'audience' => TRACKER), 200

# Faults.
fault 'a token this server never issued', -32500, 'getLoginToken', 'nosuchtoken'
fault 'a method there is not', -32601, 'noSuchMethod'
fault 'too few parameters', -32602, 'getLoginToken'
fault 'a parameter of the wrong type', -32602, 'newBugTrackerToken', 42

# Introspection.
methods = %w[newBugTrackerToken getLoginToken revokeLoginToken system.listMethods
             system.methodSignature system.methodHelp system.multicall]
same 'methods that system.listMethods leaves out', methods - API.call('system.listMethods'), []

# Two calls in one; the fault of one is not the other's.
issued, refused = API.multicall(['newBugTrackerToken'], ['getLoginToken', 'nosuchtoken'])
answers 'POST of a token issued by multicall', post(issued), 200
holds 'a fault in a multicall is a fault', refused.is_a?(XMLRPC::FaultException)
same 'a fault in a multicall', refused.faultCode, -32500

# Revoke.
revoked_id = API.call('newBugTrackerToken')
same 'revoking a live token', API.call('revokeLoginToken', revoked_id), true
same 'revoking it again', API.call('revokeLoginToken', revoked_id), false
answers 'POST of a revoked token', post(revoked_id), 401, 'Token has already been used or is invalid.'
