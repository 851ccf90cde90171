<?php
// The example for PHP in docs/trackers.md in front of the cases: a question on each line of the input, the outcome on one of the
// output. The argument is the file with the example.

require $argv[1];

while (($line = fgets(STDIN)) !== false) {
    $question = json_decode($line, true, 512, JSON_THROW_ON_ERROR);
    $settings = $question['settings'];
    $good = login_token_is_good($question['token'], $settings['issuer'], $settings['audience'], $settings['timeout']);
    echo json_encode(['outcome' => $good ? 'accepted' : 'rejected', 'text' => '']), "\n";
}
