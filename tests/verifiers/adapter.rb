# The example for Ruby in docs/trackers.md in front of the cases: a question on each line of the input, the outcome on one of the
# output. The argument is the file with the example.

require "json"

load File.expand_path(ARGV.fetch(0))

$stdout.sync = true
while (line = $stdin.gets)
  question = JSON.parse(line)
  settings = question["settings"]
  good = login_token_is_good?(question["token"], issuer: settings["issuer"], audience: settings["audience"],
                                                 seconds: settings["timeout"])
  puts JSON.generate("outcome" => good ? "accepted" : "rejected", "text" => "")
end
