#!/usr/bin/env node
// Callers that show tokens of a real OpenID provider (panva's oidc-provider) to the built server.

import { spawn, spawnSync } from 'node:child_process';
import { createServer } from 'node:http';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CompactSign, SignJWT, UnsecuredJWT, exportJWK, exportSPKI, generateKeyPair } from 'jose';
import { Provider } from 'oidc-provider';

const AUDIENCE = 'countersign';
const PATIENCE = 40_000;
const binary = process.env.COUNTERSIGN_BIN ?? fail('COUNTERSIGN_BIN must name the server');
const place = mkdtempSync(join(tmpdir(), 'countersign-oidc-'));
const children = [];

function fail(what) {
  throw new Error(what);
}

function check(holds, what) {
  if (!holds) fail(what);
}

async function until(look, what) {
  const began = performance.now();
  for (;;) {
    if (await look()) return;
    if (performance.now() - began > PATIENCE) fail(`in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

async function newKey(kid, alg = 'RS256') {
  const { privateKey, publicKey } = await generateKeyPair(alg, { extractable: true });
  const jwk = { ...(await exportJWK(privateKey)), kid, alg, use: 'sig' };
  return { kid, alg, privateKey, publicKey, jwk };
}

/** An issuer on a port of its own, whose keys can be changed, and that can be stopped and started again. */
class Issuer {
  fetches = 0;
  connections = new Set();

  async start(key) {
    this.server = createServer((request, response) => {
      if (request.url === '/jwks') this.fetches += 1;
      this.handle(request, response);
    });
    this.server.on('connection', (socket) => {
      this.connections.add(socket);
      socket.on('close', () => this.connections.delete(socket));
    });
    await new Promise((resolve) => this.server.listen(this.port ?? 0, '127.0.0.1', resolve));
    this.port = this.server.address().port;
    this.url = `http://127.0.0.1:${this.port}`;
    if (key) this.use([key]);
  }

  async stop() {
    for (const socket of this.connections) socket.destroy();
    await new Promise((resolve) => this.server.close(resolve));
  }

  /** Signs with the first of these keys, and publishes all of them. */
  use(keys) {
    const provider = new Provider(this.url, {
      clients: [{
        client_id: 'worker', client_secret: 'a-secret-of-the-issuer', redirect_uris: [], response_types: [],
        grant_types: ['client_credentials'], id_token_signed_response_alg: keys[0].alg,
      }],
      jwks: { keys: keys.map((key) => key.jwk) },
      features: {
        clientCredentials: { enabled: true },
        devInteractions: { enabled: false },
        resourceIndicators: {
          enabled: true,
          getResourceServerInfo: (_, resource) => ({
            scope: '', audience: resource.slice('urn:'.length), accessTokenFormat: 'jwt', accessTokenTTL: 600,
            jwt: { sign: { alg: keys[0].alg, kid: keys[0].kid } },
          }),
        },
      },
    });
    this.handle = provider.callback();
  }

  /** A token from its token endpoint. */
  async token(audience = AUDIENCE) {
    const answer = await fetch(`${this.url}/token`, {
      method: 'POST',
      headers: { authorization: `Basic ${btoa('worker:a-secret-of-the-issuer')}` },
      body: new URLSearchParams({ grant_type: 'client_credentials', resource: `urn:${audience}` }),
    });
    const body = await answer.json();
    check(answer.ok, `the issuer gives no token: ${JSON.stringify(body)}`);
    return body.access_token;
  }
}

/** A server with a callers file. */
class Server {
  constructor(name) {
    const child = spawn(binary, [
      'serve', '--data-dir', join(place, name), '--public-listen', '127.0.0.1:0', '--private-listen', '127.0.0.1:0',
      '--callers-file', 'callers.toml',
    ], { cwd: place, env: { PATH: process.env.PATH, RUST_LOG: 'trace' }, stdio: ['ignore', 'pipe', 'pipe'] });
    children.push(child);
    this.child = child;
    this.log = '';
    child.stdout.on('data', (text) => { this.log += text; });
    child.stderr.on('data', (text) => { this.log += text; });
  }

  async ready() {
    await until(() => /^private http:/m.test(this.log), 'the server is up');
    this.private = this.log.match(/^private (http:\S+)/m)[1];
    return this;
  }

  async show(token) {
    const headers = { authorization: `Bearer ${token}` };
    const answer = await fetch(`${this.private}/v1/tokens`, { method: 'POST', headers });
    return { status: answer.status, text: await answer.text() };
  }

  async metric(name) {
    const answer = await fetch(`${this.private}/metrics`, { headers: { authorization: `Bearer ${secret}` } });
    const line = (await answer.text()).split('\n').find((text) => text.startsWith(`${name} `));
    return Number(line?.split(' ')[1] ?? fail(`there is no ${name}`));
  }
}

function run(...words) {
  return spawnSync(binary, words, { cwd: place, encoding: 'utf8', env: { PATH: process.env.PATH } });
}

let secret;

async function main() {
  const [first, second, foreign] = [await newKey('one'), await newKey('two', 'ES256'), await newKey('one')];
  writeFileSync(join(place, 'countersign.toml'), '');
  const issuer = new Issuer();
  await issuer.start(first);

  const added = run('callers', 'new', 'worker-eu', '--file', 'callers.toml', '--scope', 'issue', '--jwt-issuer', issuer.url,
    '--jwt-audience', AUDIENCE, '--jwt-subject', 'worker');
  check(added.status === 0 && added.stdout === '', `callers new: ${added.stderr}`);
  secret = run('callers', 'new', 'ops', '--file', 'callers.toml', '--scope', 'events', '--scope', 'admin').stdout.trim();
  writeFileSync(join(place, 'ops.secret'), secret, { mode: 0o600 });
  const listed = run('callers', 'list', '--file', 'callers.toml').stdout;
  check(listed.includes(`JWT of ${issuer.url} for ${AUDIENCE}: worker`), listed);

  const server = await new Server('one').ready();
  const shown = [];
  const status = async (token, of = server) => {
    shown.push(token);
    return (await of.show(token)).status;
  };
  const good = await issuer.token();
  check(await status(good) === 201, 'a token of the issuer is accepted');
  const file = join(place, 'token');
  writeFileSync(file, `${good}\n`, { mode: 0o600 });
  const made = run('token', 'new', '--server', server.private, '--private-bearer-file', file);
  check(made.status === 0, `countersign token new with a JWT: ${made.stderr}`);

  // What is not its token for this server.
  const claims = JSON.parse(atob(good.split('.')[1].replaceAll('-', '+').replaceAll('_', '/')));
  const now = Math.floor(Date.now() / 1000);
  const sign = (key, changed = {}, header = {}) => new CompactSign(new TextEncoder().encode(JSON.stringify({ ...claims, ...changed })))
    .setProtectedHeader({ alg: key.alg, kid: key.kid, typ: 'at+jwt', ...header }).sign(key.privateKey);
  check(await status(await sign(first)) === 201, 'the same by hand: what follows differs in one thing each');
  const publicPem = await exportSPKI(first.publicKey);
  const publicJwk = JSON.stringify((await (await fetch(`${issuer.url}/jwks`)).json()).keys[0]);
  const hs256 = (text) => new SignJWT(claims).setProtectedHeader({ alg: 'HS256', kid: 'one' }).sign(new TextEncoder().encode(text));
  const wrong = {
    'a token for another audience': await issuer.token('vault'),
    'an expired token': await sign(first, { exp: now - 61, iat: now - 600 }),
    'a token from the future': await sign(first, { iat: now + 120, nbf: now + 120, exp: now + 600 }),
    'a token that lasts two days': await sign(first, { exp: now + 2 * 86400 }),
    'a token of another subject': await sign(first, { sub: 'worker2', client_id: 'worker2' }),
    'alg none': new UnsecuredJWT(claims).encode(),
    'HS256 with the public key': await hs256(publicPem),
    'HS256 with the public JWK': await hs256(publicJwk),
    'a foreign key of the same name': await sign(foreign),
    'a key in its own header': await sign(foreign, {}, { jwk: await exportJWK(foreign.publicKey) }),
    'a token of a foreign issuer': await sign(first, { iss: 'https://evil.example' }),
    'half a token': good.slice(0, -20),
  };
  for (const [what, token] of Object.entries(wrong)) check(await status(token) === 401, what);

  // Rotation while it serves: the new key is published and signs, the old one is dropped.
  const before = issuer.fetches;
  issuer.use([second]);
  const rotated = await issuer.token();
  await until(async () => await status(rotated) === 201, 'a token by the new key is accepted');
  check(await status(good) === 401, 'a token by the key that was dropped is rejected');
  check(issuer.fetches - before === 1, 'one fetch was enough');

  // Many requests with unknown keys.
  const flooded = issuer.fetches;
  const flood = Array.from({ length: 300 }, async (_, nth) => status(await sign(second, {}, { kid: `k${nth}` })));
  check((await Promise.all(flood)).every((found) => found === 401), 'unknown keys are rejected');
  check(issuer.fetches - flooded <= 2, `a flood of unknown keys made ${issuer.fetches - flooded} fetches`);

  // The issuer is down: who has its keys goes on, who has none says so.
  await issuer.stop();
  check(await status(rotated) === 201, 'the keys that were fetched are used');
  const late = await new Server('two').ready();
  const without = await late.show(rotated);
  check(without.status === 503 && without.text.includes('issuer-unavailable'), `without keys: ${without.text}`);
  check(await late.metric('countersign_jwks_issuers_without_keys') === 1, 'the metrics say so');
  const doctor = () => run('doctor', '--server', late.private, '--private-bearer-file', 'ops.secret', '--data-dir',
    join(place, 'two'), '--callers-file', 'callers.toml').stdout;
  check(doctor().includes(`no JWT of the issuer ${issuer.url} is accepted`), `doctor: ${doctor()}`);
  await issuer.start();
  await until(async () => await status(rotated, late) === 201, 'a token is accepted when the issuer is back');
  check(doctor().includes(`the issuer ${issuer.url} has one key`), `doctor: ${doctor()}`);

  for (const { log } of [server, late]) {
    check(log.includes('was shown a wrong credential') || log === late.log, 'the log tells of rejected tokens');
    check(log.includes('TRACE'), 'so much is logged that something could be in it');
    for (const token of shown) {
      for (const part of token.split('.').filter((text) => text.length > 30 && !text.startsWith('eyJhbGciOi'))) {
        check(!log.includes(part.slice(0, 30)), 'a part of a token is in the log');
      }
    }
    check(!/k\d+"|worker2/.test(log), 'what a rejected token says of itself is in the log');
  }
  for (const { child } of [server, late]) {
    child.kill('SIGTERM');
    await until(() => child.exitCode !== null, 'the server stops');
    check(child.exitCode === 0, `the server stopped with ${child.exitCode}`);
  }
  await issuer.stop();
  console.log('callers of an OpenID provider: all well');
}

try {
  await main();
} catch (error) {
  console.error(`tests/oidc/run.mjs: ${error.stack}`);
  process.exitCode = 1;
} finally {
  for (const child of children) child.kill('SIGKILL');
  rmSync(place, { recursive: true, force: true });
}
// Close what is still open.
process.exit();
