<?php
// PHP's xmlrpc extension and its http streams in conversation with a running Countersign.
//
// COUNTERSIGN_PRIVATE and COUNTERSIGN_PUBLIC name the base URLs of its two
// listeners. The first answer that differs from the protocol ends the script
// with one sentence and exit status 1. The extension declares its requests as
// iso-8859-1, so that is what a letter outside ASCII must be read as.

error_reporting(E_ALL);
set_error_handler(function ($level, $message, $file, $line) {
    throw new ErrorException($message, 0, $level, $file, $line);
});

const TRACKER = 'https://trac.example.org/';
define('API', getenv('COUNTERSIGN_PRIVATE') . '/bugs');
define('PUBLIC_URL', getenv('COUNTERSIGN_PUBLIC'));

function differs(string $sentence): never
{
    fwrite(STDERR, "$sentence\n");
    exit(1);
}

function same(string $what, mixed $got, mixed $expected): void
{
    if ($got !== $expected) {
        differs("$what: expected " . var_export($expected, true) . ', got ' . var_export($got, true));
    }
}

function holds(string $what, mixed $truth): void
{
    if (!$truth) {
        differs("$what: it is not so");
    }
}

/** Status, text and headers (by lower-case name) of one HTTP request. */
function http(string $method, string $url, string $type = '', string $body = ''): array
{
    $stream = fopen($url, 'r', false, stream_context_create(['http' => [
        'method' => $method,
        'header' => $type === '' ? [] : ["Content-Type: $type"],
        'content' => $body,
        'ignore_errors' => true, // give the body of a refusal, too
        'follow_location' => 0,
        'timeout' => 10, // seconds
    ]]));
    $lines = stream_get_meta_data($stream)['wrapper_data'];
    $text = rtrim(stream_get_contents($stream), "\n");
    $headers = [];
    foreach (array_slice($lines, 1) as $line) {
        [$name, $value] = explode(':', $line, 2);
        $headers[strtolower($name)] = trim($value);
    }
    return [(int) explode(' ', $lines[0])[1], $text, $headers];
}

function call(string $method, mixed ...$parameters): mixed
{
    // 'markup' leaves letters outside ASCII as the bytes they are.
    $request = xmlrpc_encode_request($method, $parameters, ['escaping' => 'markup']);
    holds('the request is declared as iso-8859-1', str_contains($request, 'encoding="iso-8859-1"'));
    [$status, $text] = http('POST', API, 'text/xml', $request);
    same("HTTP status of $method", $status, 200);
    return xmlrpc_decode($text);
}

function fault(string $what, int $code, string $method, mixed ...$parameters): void
{
    $answer = call($method, ...$parameters);
    if (!is_array($answer) || !xmlrpc_is_fault($answer)) {
        differs("$what: expected fault $code, got an answer");
    }
    same("$what: fault code", $answer['faultCode'], $code);
    holds("$what: the fault carries a sentence", str_contains($answer['faultString'], ' '));
}

/** Where a tracker redeems a token, made from the base URL it was configured with. */
function handshake(string $token_id): string
{
    return PUBLIC_URL . "/token/$token_id/+bugtracker-handshake";
}

function post(string $token_id, array $form = []): array
{
    return http('POST', handshake($token_id), 'application/x-www-form-urlencoded', http_build_query($form));
}

function answers(string $what, array $response, int $status, ?string $text = null): void
{
    same("$what: status", $response[0], $status);
    if ($text !== null) {
        same("$what: text", $response[1], $text);
    }
}

function date_consumed(string $token_id): mixed
{
    return call('getLoginToken', $token_id)['date_consumed'];
}

function is_date(mixed $value): bool
{
    return is_object($value) && xmlrpc_get_type($value) === 'datetime';
}

// Issue two tokens and look at one.
$token_id = call('newBugTrackerToken');
$other_id = call('newBugTrackerToken');
holds('a token is ASCII letters and digits only', preg_match('/\A[0-9A-Za-z]+\z/', $token_id));
holds('two tokens differ', $token_id !== $other_id);

$token = call('getLoginToken', $token_id);
same('token_id', $token['token_id'], $token_id);
same('token_type', $token['token_type'], 'BUGTRACKER');
same('title', $token['title'], 'Launchpad is authenticating itself with a remote bug tracker.');
same('handshake_url', $token['handshake_url'], handshake($token_id));
same('audience of an unbound token', $token['audience'], '');
same('date_consumed of a fresh token', $token['date_consumed'], false);
holds('date_created is a date', is_date($token['date_created']));
holds('date_expires is a date', is_date($token['date_expires']));
holds('date_expires is after date_created', $token['date_created']->timestamp < $token['date_expires']->timestamp);

// The first POST redeems it, and only the first.
answers('first POST', post($token_id), 200, 'Handshake token validated.');
holds('date_consumed is a date after the POST', is_date(date_consumed($token_id)));
$second = post($token_id);
answers('second POST', $second, 401, 'Token has already been used or is invalid.');
holds('a 401 carries WWW-Authenticate', $second[2]['www-authenticate'] ?? '');

// Only POST is accepted, and no other method consumes.
$get = http('GET', handshake($other_id));
answers('GET', $get, 405, 'Only POST requests are accepted for bugtracker handshakes.');
same('Allow', $get[2]['allow'] ?? null, 'POST');
same('date_consumed after a GET', date_consumed($other_id), false);
answers('POST after the GET', post($other_id), 200);

// A bound token is for its own tracker alone.
$bound_id = call('newBugTrackerToken', TRACKER);
same('audience of a bound token', call('getLoginToken', $bound_id)['audience'], TRACKER);
answers('bound token, no audience stated', post($bound_id), 403);
answers('bound token, another audience', post($bound_id, ['audience' => 'https://evil.example.net/']), 403);
same('date_consumed after two refusals', date_consumed($bound_id), false);
answers('bound token, its audience', post($bound_id, ['audience' => TRACKER]), 200);

// The bytes of iso-8859-1 in the call name the same tracker as the UTF-8 of the form.
$bound_id = call('newBugTrackerToken', "https://trac.example.org/z\xfcrich");
same('audience sent in iso-8859-1', call('getLoginToken', $bound_id)['audience'], 'https://trac.example.org/z%C3%BCrich');
answers('bound token, its audience in UTF-8', post($bound_id, ['audience' => 'https://trac.example.org/zürich']), 200);

// Faults.
fault('a token this server never issued', -32500, 'getLoginToken', 'nosuchtoken');
fault('a method there is not', -32601, 'noSuchMethod');
fault('too few parameters', -32602, 'getLoginToken');
fault('a parameter of the wrong type', -32602, 'newBugTrackerToken', 42);

// Introspection.
$methods = ['newBugTrackerToken', 'getLoginToken', 'revokeLoginToken', 'system.listMethods',
    'system.methodSignature', 'system.methodHelp', 'system.multicall'];
same('methods that system.listMethods leaves out', array_diff($methods, call('system.listMethods')), []);

// Two calls in one; the fault of one is not the other's.
[$issued, $refused] = call('system.multicall', [
    ['methodName' => 'newBugTrackerToken', 'params' => []],
    ['methodName' => 'getLoginToken', 'params' => ['nosuchtoken']],
]);
answers('POST of a token issued by multicall', post($issued[0]), 200);
same('a fault in a multicall', $refused['faultCode'], -32500);

// Revoke.
$revoked_id = call('newBugTrackerToken');
same('revoking a live token', call('revokeLoginToken', $revoked_id), true);
same('revoking it again', call('revokeLoginToken', $revoked_id), false);
answers('POST of a revoked token', post($revoked_id), 401, 'Token has already been used or is invalid.');
