"""The package for Python in front of the cases: a question on each line of the input, the outcome on one of the output.

With the argument `async` it is asked as a coroutine.
"""

import asyncio
import json
import sys

from countersign_verifier import MalformedToken, Refused, SetupError, UnexpectedAnswer, Unreachable, Verifier, VerifyError

OUTCOMES = {MalformedToken: 'malformed', Refused: 'refused', Unreachable: 'unreachable', UnexpectedAnswer: 'unexpected'}


def answer(settings, token):
    try:
        verifier = Verifier(**settings)
    except SetupError as error:
        return {'outcome': 'usage', 'text': '%s %r' % (error, error)}
    try:
        verified = asyncio.run(verifier.verify_async(token)) if 'async' in sys.argv else verifier.verify(token)
    except VerifyError as error:
        chain = [error, error.__context__, error.__cause__]
        return {'outcome': OUTCOMES[type(error)], 'text': ' '.join('%s %r' % (link, link) for link in chain)}
    return {'outcome': 'accepted', 'text': '%r' % verifier,
            'says': {'issuer': verified.issuer, 'audience': verified.audience, 'claims': verified.claims}}


for line in sys.stdin:
    question = json.loads(line)
    print(json.dumps(answer(question['settings'], question['token'])), flush=True)
