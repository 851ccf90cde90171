// Node's most used XML-RPC client and its own fetch in conversation with a running Countersign.
//
// COUNTERSIGN_PRIVATE and COUNTERSIGN_PUBLIC name the base URLs of its two
// listeners. The first answer that differs from the protocol ends the script
// with one sentence and exit status 1.
"use strict";

const { isDeepStrictEqual, promisify } = require("node:util");
const xmlrpc = require("xmlrpc");

const { COUNTERSIGN_PRIVATE: PRIVATE, COUNTERSIGN_PUBLIC: PUBLIC } = process.env;
const TRACKER = "https://trac.example.org/";
const client = xmlrpc.createClient(`${PRIVATE}/bugs`);
const methodCall = promisify(client.methodCall.bind(client));
const call = (method, ...parameters) => methodCall(method, parameters);

class Difference extends Error {}

function same(what, got, expected) {
  if (!isDeepStrictEqual(got, expected)) {
    throw new Difference(`${what}: expected ${JSON.stringify(expected)}, got ${JSON.stringify(got)}`);
  }
}

function holds(what, truth) {
  if (!truth) throw new Difference(`${what}: it is not so`);
}

async function fault(what, code, method, ...parameters) {
  const refusal = await call(method, ...parameters).then(() => undefined, (error) => error);
  same(`${what}: fault code`, refusal?.faultCode, code);
  holds(`${what}: the fault carries a sentence`, refusal.faultString.includes(" "));
}

// Where a tracker redeems a token, made from the base URL it was configured with.
const handshake = (tokenId) => `${PUBLIC}/token/${tokenId}/+bugtracker-handshake`;

async function http(method, url, form) {
  const body = form && new URLSearchParams(form);
  const response = await fetch(url, { method, body, redirect: "manual", signal: AbortSignal.timeout(10_000) });
  return { status: response.status, text: (await response.text()).trimEnd(), headers: response.headers };
}

const post = (tokenId, form) => http("POST", handshake(tokenId), form);
const dateConsumed = async (tokenId) => (await call("getLoginToken", tokenId)).date_consumed;

function answers(what, response, status, text) {
  same(`${what}: status`, response.status, status);
  if (text !== undefined) same(`${what}: text`, response.text, text);
}

async function conversation() {
  // Issue two tokens and look at one.
  const tokenId = await call("newBugTrackerToken");
  const otherId = await call("newBugTrackerToken");
  holds("a token is ASCII letters and digits only", /^[0-9A-Za-z]+$/.test(tokenId));
  holds("two tokens differ", tokenId !== otherId);

  const token = await call("getLoginToken", tokenId);
  same("token_id", token.token_id, tokenId);
  same("token_type", token.token_type, "BUGTRACKER");
  same("title", token.title, "Launchpad is authenticating itself with a remote bug tracker.");
  same("handshake_url", token.handshake_url, handshake(tokenId));
  same("audience of an unbound token", token.audience, "");
  same("date_consumed of a fresh token", token.date_consumed, false);
  holds("date_created is a date", token.date_created instanceof Date);
  holds("date_expires is a date", token.date_expires instanceof Date);
  holds("date_expires is after date_created", token.date_created < token.date_expires);

  // The first POST redeems it, and only the first.
  answers("first POST", await post(tokenId), 200, "Handshake token validated.");
  holds("date_consumed is a date after the POST", (await dateConsumed(tokenId)) instanceof Date);
  const second = await post(tokenId);
  answers("second POST", second, 401, "Token has already been used or is invalid.");
  holds("a 401 carries WWW-Authenticate", second.headers.get("WWW-Authenticate"));

  // Only POST is accepted, and no other method consumes.
  const get = await http("GET", handshake(otherId));
  answers("GET", get, 405, "Only POST requests are accepted for bugtracker handshakes.");
  same("Allow", get.headers.get("Allow"), "POST");
  same("date_consumed after a GET", await dateConsumed(otherId), false);
  answers("POST after the GET", await post(otherId), 200);

  // A bound token is for its own tracker alone.
  const boundId = await call("newBugTrackerToken", TRACKER);
  same("audience of a bound token", (await call("getLoginToken", boundId)).audience, TRACKER);
  answers("bound token, no audience stated", await post(boundId), 403);
  answers("bound token, another audience", await post(boundId, { audience: "https://evil.example.net/" }), 403);
  same("date_consumed after two refusals", await dateConsumed(boundId), false);
  answers("bound token, its audience", await post(boundId, { audience: TRACKER }), 200);

  // Faults.
  await fault("a token this server never issued", -32500, "getLoginToken", "nosuchtoken");
  await fault("a method there is not", -32601, "noSuchMethod");
  await fault("too few parameters", -32602, "getLoginToken");
  await fault("a parameter of the wrong type", -32602, "newBugTrackerToken", 42);

  // Introspection.
  const methods = ["newBugTrackerToken", "getLoginToken", "revokeLoginToken", "system.listMethods",
    "system.methodSignature", "system.methodHelp", "system.multicall"];
  const listed = await call("system.listMethods");
  same("methods that system.listMethods leaves out", methods.filter((method) => !listed.includes(method)), []);

  // Two calls in one; the fault of one is not the other's.
  const [issued, refused] = await call("system.multicall", [
    { methodName: "newBugTrackerToken", params: [] },
    { methodName: "getLoginToken", params: ["nosuchtoken"] },
  ]);
  answers("POST of a token issued by multicall", await post(issued[0]), 200);
  same("a fault in a multicall", refused.faultCode, -32500);

  // Revoke.
  const revokedId = await call("newBugTrackerToken");
  same("revoking a live token", await call("revokeLoginToken", revokedId), true);
  same("revoking it again", await call("revokeLoginToken", revokedId), false);
  answers("POST of a revoked token", await post(revokedId), 401, "Token has already been used or is invalid.");
}

conversation().catch((error) => {
  console.error(error instanceof Difference ? error.message : error);
  process.exitCode = 1;
});
