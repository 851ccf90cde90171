#!/usr/bin/perl -T
# SPDX-License-Identifier: MIT OR Apache-2.0

# The distribution for Perl in front of the cases: a question on each line of the input, the outcome on one of the output.

use 5.14.0;
use strict;
use warnings;

use Countersign::Verifier;
use JSON::PP;

$| = 1;
while (my $line = <STDIN>) {
  my $question = decode_json($line);
  my $verifier = eval { Countersign::Verifier->new(%{$question->{settings}}) };
  if (!$verifier) {
    say encode_json({outcome => 'usage', text => "$@"});
    next;
  }
  my $result = $verifier->verify($question->{token});
  die 'a result must be true if, and only if, it is a yes' if !!$result != ($result->outcome eq 'accepted');
  say encode_json({outcome => $result->outcome, text => $result->reason});
}
