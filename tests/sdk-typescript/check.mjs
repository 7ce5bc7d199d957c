// Runs the official TypeScript SDK against one server, or against two nodes of a cluster, and checks what its
// user gets to see. What is expected here is what SpacetimeDB 1.2.0 itself does. See README.md.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { parseArgs } from 'node:util';
import { Client } from './client.mjs';

const STEP_MS_MAX = 15_000;
const PIPELINED_CALLS = 100;
/** Far above the size from which the server compresses a message, 1 KiB. */
const LONG_NAME_BYTES = 64 * 1024;

// The SDK logs to the console; standard output is for the results.
globalThis.console = new console.Console(process.stderr);

/** Carries out one step, bounded in time; the first that fails ends the program. */
async function step(what, body) {
  let timer;
  const late = new Promise((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`not done after ${STEP_MS_MAX} ms`)), STEP_MS_MAX);
  });
  try {
    const result = await Promise.race([body(), late]);
    process.stdout.write(`ok ${what}\n`);
    return result;
  } catch (error) {
    giveUp(what, error);
  } finally {
    clearTimeout(timer);
  }
}

function giveUp(what, error) {
  process.stderr.write(`failed ${what}: ${error?.stack ?? error}\n`);
  process.exit(1);
}

process.on('unhandledRejection', (error) => giveUp('the SDK could not handle what the server sent', error));

const { values: options } = parseArgs({
  options: {
    uri: { type: 'string' },
    'other-uri': { type: 'string' },
    database: { type: 'string' },
    'no-energy': { type: 'boolean' },
  },
});
if (!options.uri || !options.database) {
  const usage = 'usage: node check.mjs --uri ws://HOST:PORT [--other-uri ws://HOST:PORT] --database NAME [--no-energy]';
  process.stderr.write(`${usage}\n`);
  process.exit(2);
}
const { uri, database } = options;
const otherUri = options['other-uri'] ?? uri;

/** Names that no earlier run has left in the table. */
const run = randomBytes(6).toString('hex');
const named = (label) => `${label} ${run}`;

/** That `event` tells of a call by `caller`, as the server reports it to whoever is to know. */
function assertCall(event, caller, reducer, args) {
  assert.deepEqual(event.reducer, { name: reducer, args });
  assert.equal(event.callerIdentity.toHexString(), caller.identity.toHexString(), 'caller identity');
  assert.equal(
    event.callerConnectionId.toHexString(),
    caller.connectionId.toHexString(),
    'caller connection',
  );
  assert.ok(event.timestamp.microsSinceUnixEpoch > 0n, 'timestamp');
  if (!options['no-energy']) assert.ok(event.energyConsumed > 0n, 'energy');
}

/** That `client` was told of this committed `add` of `caller`, and got its row with it. */
async function assertAdded(client, caller, name, value) {
  const { event } = await client.called('add', name);
  assert.equal(event.status.tag, 'Committed');
  assertCall(event, caller, 'add', { name, value });

  const inserted = await client.inserted(name);
  assert.equal(inserted.event.tag, 'Reducer');
  assertCall(inserted.event.value, caller, 'add', { name, value });
  assert.equal(inserted.row.value, value);
  assert.equal(
    inserted.row.by.toHexString(),
    caller.identity.toHexString(),
    'the sender that the reducer saw',
  );
  assert.deepEqual(inserted.row.at, event.timestamp, 'the time that the reducer saw');
}

/** That `caller` was told why its call of `fail` failed. */
async function assertFailed(caller, message) {
  const { event } = await caller.called('fail', message);
  assert.deepEqual(event.status, { tag: 'Failed', value: message });
  assertCall(event, caller, 'fail', { message });
}

async function errorOf(promise) {
  const error = await promise.then(
    () => assert.fail('no error came'),
    (error) => error,
  );
  return error.message;
}

const first = await step('connects without a token and is given an identity and its token', async () => {
  const client = await Client.connect(uri, database);
  assert.match(client.identity.toHexString(), /^c200[0-9a-f]{60}$/);
  assert.ok(!client.connectionId.isZero());
  const claims = JSON.parse(Buffer.from(client.token.split('.')[1], 'base64url'));
  assert.equal(claims.hex_identity, client.identity.toHexString());
  return client;
});

const everything = await step('subscribes to a table', async () => {
  const handle = await first.subscribe('SELECT * FROM counter');
  assert.ok(handle.isActive());
  return handle;
});

await step('gets the result of its call together with its row', async () => {
  first.add(named('own'), -7n);
  await assertAdded(first, first, named('own'), -7n);
});

await step('gets the message of a call that fails', async () => {
  first.fail(named('on purpose'));
  await assertFailed(first, named('on purpose'));
});

const second = await step(
  'a second client, subscribed to nothing, gets the results of its calls',
  async () => {
    const client = await Client.connect(uri, database, (builder) => builder.withCompression('none'));
    assert.notEqual(client.identity.toHexString(), first.identity.toHexString());
    client.add(named('second'), 2n);
    client.fail(named('second on purpose'));
    const { event } = await client.called('add', named('second'));
    assert.equal(event.status.tag, 'Committed');
    assertCall(event, client, 'add', { name: named('second'), value: 2n });
    await assertFailed(client, named('second on purpose'));
    assert.equal(client.count('insert', named('second')), 0);
    return client;
  },
);

await step("the first is told of the second's call: its row, caller and arguments", async () => {
  await assertAdded(first, second, named('second'), 2n);
});

await step("a light client gets its own results, and other people's rows without their calls", async () => {
  const light = await Client.connect(uri, database, (builder) => builder.withLightMode(true));
  await light.subscribe('SELECT * FROM counter');
  light.add(named('light'), 3n);
  await assertAdded(light, light, named('light'), 3n);
  await assertAdded(first, light, named('light'), 3n);
  first.add(named('for light'), 4n);
  const { event } = await light.inserted(named('for light'));
  assert.equal(event.tag, 'UnknownTransaction');
  assert.equal(light.count('add', named('for light')), 0);
  await light.disconnect();
});

const longName = `${named('long')} ${'x'.repeat(LONG_NAME_BYTES)}`;

await step('gets a long row whole, through the compression that it asked for', async () => {
  first.add(longName, 5n);
  await assertAdded(first, first, longName, 5n);
});

const pipelined = Array.from({ length: PIPELINED_CALLS }, (_, index) => named(`pipelined ${index}`));

await step(`${PIPELINED_CALLS} calls made at once are answered in their order`, async () => {
  for (const [index, name] of pipelined.entries()) first.add(name, BigInt(index));
  await first.inserted(pipelined.at(-1));
  for (const kind of ['add', 'insert']) {
    const reported = first.events.seen((event) => event.kind === kind && pipelined.includes(event.name));
    assert.deepEqual(
      reported.map(({ name }) => name),
      pipelined,
      kind,
    );
  }
});

await step('a caller that wants no results gets none, whether its calls succeed or fail', async () => {
  second.setFlags('NoSuccessNotify');
  second.add(named('quiet'), 6n);
  second.fail(named('quiet on purpose'));
  second.setFlags('FullUpdate');
  second.add(named('loud'), 7n);
  await second.called('add', named('loud'));
  assert.equal(second.count('add', named('quiet')), 0);
  assert.equal(second.count('fail', named('quiet on purpose')), 0);
  await assertAdded(first, second, named('quiet'), 6n);
});

await step('a query of a table that is not there is refused, and so are those of hidden tables', async () => {
  const missing = await errorOf(first.subscribe('SELECT * FROM missing'));
  assert.match(missing, /missing/);
  for (const hidden of ['rtdb_state', 'rtdb_session', 'rtdb_sequence']) {
    const refused = await errorOf(first.subscribe(`SELECT * FROM ${hidden}`));
    assert.equal(refused, missing.replaceAll('missing', hidden));
  }
});

await step('ends one of two subscriptions, then the other, and gets no more rows', async () => {
  const few = await first.subscribe(`SELECT * FROM counter WHERE name = '${named('own')}'`);
  await first.unsubscribe(few);
  assert.ok(few.isEnded());
  assert.ok(
    first.rows.some(({ name }) => name === named('own')),
    'the other subscription still holds the row',
  );

  await first.unsubscribe(everything);
  assert.ok(everything.isEnded());
  assert.deepEqual(first.rows, []);
  second.add(named('unseen'), 8n);
  await second.called('add', named('unseen'));
  first.add(named('last'), 9n);
  const { event } = await first.called('add', named('last'));
  assert.equal(event.status.tag, 'Committed');
  for (const label of ['unseen', 'last']) assert.equal(first.count('insert', named(label)), 0);
});

await step('was told of each call once, and of no failing call of others', async () => {
  const of = (kind) => first.events.seen((event) => event.kind === kind).map(({ name }) => name);
  for (const kind of ['add', 'fail']) assert.equal(new Set(of(kind)).size, of(kind).length, kind);
  assert.deepEqual(of('fail'), [named('on purpose')]);
  assert.ok(!of('insert').includes('never seen'), 'a row of a call that failed');
  const rows = of('insert').filter((name) => name.includes(run));
  assert.equal(new Set(rows).size, rows.length, 'rows');
});

await step('disconnects', async () => {
  await Promise.all([first.disconnect(), second.disconnect()]);
});

await step('connects again with its token, is the same identity and finds its rows', async () => {
  const again = await Client.connect(otherUri, database, (builder) => builder.withToken(first.token));
  assert.equal(again.identity.toHexString(), first.identity.toHexString());
  assert.equal(again.token, first.token);
  assert.notEqual(again.connectionId.toHexString(), first.connectionId.toHexString());
  await again.subscribe('SELECT * FROM counter WHERE value = -7');
  assert.ok(again.rows.some((row) => row.name === named('own') && row.by.isEqual(first.identity)));
  await again.subscribe('SELECT * FROM counter');
  const mine = again.rows.filter((row) => row.by.isEqual(first.identity)).map(({ name }) => name);
  const expected = [named('own'), named('for light'), longName, ...pipelined, named('last')];
  assert.deepEqual(mine.sort(), expected.sort());
  again.add(named('again'), 10n);
  await assertAdded(again, again, named('again'), 10n);
  await again.disconnect();
});

await step('is refused with a token that the server did not sign', async () => {
  const [header, claims, signature] = first.token.split('.');
  const forged = [header, claims, [...signature].reverse().join('')].join('.');
  for (const token of [forged, 'not a token']) {
    const refused = Client.connect(otherUri, database, (builder) => builder.withToken(token));
    assert.match(await errorOf(refused), /Unauthorized/);
  }
});

await step('is refused a database that is not there', async () => {
  await errorOf(Client.connect(otherUri, named('missing').replace(' ', '-')));
});

process.exit(0);
