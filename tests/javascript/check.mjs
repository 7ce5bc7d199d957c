// What the shim is to do, and what a module without it does not.
import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { Host } from './host.mjs';
import { original, prepared } from './schemas.mjs';

const programs = { original: await readFile('bundle.mjs', 'utf8'), prepared: await readFile('prepared.mjs', 'utf8') };

const ZONES = ['Pacific/Auckland', 'America/Lima'];
const HEADER_BYTES = 72;

const string = text => {
  const bytes = Buffer.from(text);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(bytes.length);
  return Buffer.concat([length, bytes]);
};

function header({ sender = 5n, connection = 6n, micros, index, session = 0n }) {
  const bytes = Buffer.alloc(HEADER_BYTES);
  const put = (at, words, value) => {
    for (let nth = 0; nth < words; nth += 1) bytes.writeBigUInt64LE((value >> BigInt(64 * nth)) & 0xffffffffffffffffn, at + 8 * nth);
  };
  put(0, 4, sender);
  put(32, 2, connection);
  put(48, 1, BigInt.asUintN(64, micros));
  put(56, 1, index);
  put(64, 1, session);
  return bytes;
}

// Of promises that nobody waits for. The server does not ask.
const rejected = [];
process.on('unhandledRejection', error => rejected.push(error.message));

const time = index => 1_700_000_000_000_000n + index * 1_234_567n;

/** A call as a replica makes it. */
function call(host, name, index, { args = new Uint8Array(), ...more } = {}) {
  return host.call(name, Buffer.concat([header({ micros: time(index), index, ...more }), args]));
}

async function start(options) {
  const host = new Host(programs.prepared, prepared, options);
  await host.start();
  return host;
}

const texts = (host, name) => host.rows(name).map(row => Buffer.from(row, 'hex').toString());
const notes = (host, kind) => host.rows('note').map(row => Buffer.from(row, 'hex'))
  .filter(row => row.readUInt32LE(0) === kind).map(row => row.subarray(8).toString());

const CALLS = [
  ['init'], ['came'], ['add', { args: string('anna') }], ['add', { args: string('bert') }], ['random'], ['random'], ['clock'],
  ['twice'], ['fails'], ['fill'], ['many'], ['list'], ['stash'], ['stash'], ['later'], ['add', { args: string('carl'), session: 9n }],
  ['clock'], ['left', { session: 9n }], ['add', { args: string('dora'), session: 10n }], ['rtdb_mark', { args: Uint8Array.of(1) }],
  ['random'], ['number'], ['forget'], ['number'], ['cut'], ['add', { args: string('emil'), session: 10n }],
];
const FAILS = new Map([['fails', 'no']]);

async function all(host, { anew }) {
  const indexes = [];
  for (const [nth, [name, options]] of CALLS.entries()) {
    if (anew(nth)) await host.start();
    const index = BigInt(nth + 1);
    const failure = await call(host, name, index, options);
    assert.equal(failure, FAILS.get(name), `${name}: ${failure}`);
    if (failure === undefined) indexes.push(nth + 1);
  }
  return indexes;
}

const checks = {
  async 'without a shim, what an instance keeps is seen'() {
    const host = new Host(programs.original, original);
    await host.start();
    const at = { micros: 1n };
    assert.equal(await host.call('add', string('anna'), at), undefined);
    assert.equal(await host.call('random', new Uint8Array(), at), undefined);
    assert.equal(await host.call('random', new Uint8Array(), at), undefined);
    assert.equal(await host.call('add', string('anna'), at), undefined);
    // The bindings of 2.8.3 make a generator at its first use, and keep it: the same time, other numbers.
    assert.equal(new Set(notes(host, 1)).size, 2);
    assert.match(texts(host, 'person').join(), /anna 1 1.*anna 2 1/s);
  },

  async 'hosts of any age, zone and order have the same rows'() {
    const results = [];
    const ages = { old: () => false, young: () => true, mixed: nth => nth % 3 === 1 };
    for (const [nth, [age, anew]] of Object.entries(ages).entries()) {
      process.env.TZ = ZONES[nth % 2];
      assert.notEqual(new Date(2024, 6, 1).getTimezoneOffset(), 0);
      const host = await start({ seed: 3 + nth, chunk: 10 + 50 * nth });
      const indexes = await all(host, { anew });
      results.push([age, host, indexes]);
    }
    assert.deepEqual(rejected, Object.keys(ages).map(() => 'the call is over'));
    const [[, first, indexes], ...others] = results;
    for (const [age, host] of others) assert.deepEqual(host.dump(), first.dump(), age);
    const [state] = first.rows('rtdb_state');
    await writeFile('told.json', JSON.stringify({ state, indexes, writes: first.log }));

    // And they are what a reader would expect.
    const people = texts(first, 'person').join('|');
    for (const name of ['anna 1 1', 'bert 1 1', 'carl 1 1', 'twice']) assert.ok(people.includes(name), people);
    assert.ok(!/never|later/.test(people), people);
    assert.equal(new Set(notes(first, 1)).size, 3);
    const [clock] = notes(first, 2).sort();
    assert.match(clock, /^17000000\d+ \| .* GMT\+0000 \(Coordinated Universal Time\) \| 1719835200000 \| 12 \| Mon Jul 01 2024 12:00:00 GMT\+0000/);
    assert.match(clock, / \| 1719835200000 \| 2024-07-01T12:00:00.000Z \| 0 \| undefined \| undefined$/);
    assert.deepEqual(first.rows('small'), ['01', '02', '03', '04']);
    assert.deepEqual(notes(first, 6), ['2 true 4']);
    for (const name of ['two', 'three', 'four']) {
      assert.deepEqual(first.rows(name).map(row => row.slice(0, 2)), ['01', '02', '03', '04']);
    }
    assert.equal(first.rows('rtdb_sequence').length, 1);
    assert.ok(notes(first, 4)[0].endsWith('a,b,c,d,e'), notes(first, 4)[0]);
    // Both calls have written the same row.
    const found = notes(first, 5);
    assert.equal(found.length, 1);
    const expected = {
      global: '1', prototype: 'TypeError true', array: 'TypeError true', push: 'TypeError true', function: 'TypeError true',
      toString: 'TypeError true', getter: 'TypeError true', override: 'TypeError true', symbols: 'TypeError true',
      generator: 'TypeError true', code: 'TypeError true', sloppy: 'undefined', eval: 'TypeError true', weak: 'object',
      matched: 'undefined', console: '1', error: 'OwnError true', thrown: 'UniqueAlreadyExists true',
      table: 'person,note,small,one,two,three,four',
    };
    assert.deepEqual(Object.fromEntries(found[0].split('\n').map(line => line.split(': '))), expected);
  },

  async 'a call is applied once'() {
    const host = await start();
    assert.equal(await call(host, 'add', 5n, { args: string('anna'), session: 4n }), undefined);
    const before = host.dump();
    for (const index of [5n, 4n]) {
      assert.equal(await call(host, 'add', index, { args: string('anna'), session: 4n }), 'rtdb_skipped');
      assert.equal(await call(host, 'rtdb_mark', index, { args: Uint8Array.of(1) }), undefined);
    }
    await host.start();
    assert.equal(await call(host, 'add', 5n, { args: string('anna') }), 'rtdb_skipped');
    assert.deepEqual(host.dump(), before);
  },

  async 'a call that fails leaves nothing, not even a number'() {
    const host = await start();
    assert.equal(await call(host, 'add', 1n, { args: string('anna') }), undefined);
    const before = host.dump();
    assert.equal(await call(host, 'fails', 2n), 'no');
    assert.deepEqual(host.dump(), before);
    assert.equal(await call(host, 'twice', 3n), undefined);
    assert.deepEqual(notes(host, 3), ['2']);
  },

  async 'the module sees who calls, not who brings the call'() {
    const host = await start();
    assert.equal(await call(host, 'came', 1n, { sender: 0xabcn, connection: 0xdefn }), undefined);
    assert.equal(notes(host, 7)[0], `${'abc'.padStart(64, '0')} ${'def'.padStart(32, '0')}`);
  },

  async 'receipts last as long as their sessions'() {
    const host = await start();
    const receipt = (session, index) => {
      const row = Buffer.alloc(16);
      row.writeBigUInt64LE(session);
      row.writeBigUInt64LE(index, 8);
      return row.toString('hex');
    };
    await call(host, 'add', 1n, { args: string('a'), session: 3n });
    await call(host, 'add', 2n, { args: string('a'), session: 3n });
    await call(host, 'add', 3n, { args: string('a'), session: 4n });
    await call(host, 'add', 4n, { args: string('a'), session: (1n << 63n) | 5n });
    assert.deepEqual(host.rows('rtdb_session'), [receipt(3n, 2n), receipt(4n, 3n)]);
    await call(host, 'left', 5n, { session: 3n });
    assert.deepEqual(host.rows('rtdb_session'), [receipt(4n, 3n)]);
    await call(host, 'rtdb_disconnect', 6n, { session: 4n });
    assert.deepEqual(host.rows('rtdb_session'), []);
  },

  async 'the host is told the rewritten definition'() {
    const host = await start();
    assert.notDeepEqual([...host.describe()], [...(await readFile('module.def'))]);
    assert.ok(Buffer.from(host.describe()).includes('rtdb_state'));
  },
};

for (const [name, check] of Object.entries(checks)) {
  await check();
  console.log(`ok: ${name}`);
}
