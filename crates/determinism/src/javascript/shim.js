// What is put around a JavaScript module: its calls get what they know from the header, as those of WASM modules do.
//
// Before this stand `PLAN`, an object, and `BUNDLE`, the text of the module in CommonJS. They are made by `mod.rs`.
//
// A realm can't be had anew from within, and so an instance is as new in each call in another way: what all code shares
// is frozen before the module's first line runs, and the module's own code is a function that is evaluated once a call. What it
// has left of an earlier call, it can no longer reach, and what is left of it (a promise) can no longer reach the host.
import * as sys20 from 'spacetime:sys@2.0';
import * as sys21 from 'spacetime:sys@2.1';

const real = globalThis;
const { asUintN, asIntN } = BigInt;
const NativeDate = Date;
const host = { ...sys20, ...sys21 };

// In its scope are only the names of the real global object, as in that of all code that it makes of text: the bindings do so
// for each type. That object is frozen by then.
const evaluate = new Function('require', 'exports', 'globalThis', `'use strict';\n${BUNDLE}`);

// ---- The call that runs.

/** The evaluation that runs: its `global`, its `micros`, its `hooks` once it has some, and what its call has done. */
let current;

const HEADER_BYTES = 72;
const MICROS_PER_MS = 1000n;

function now() {
  if (current === undefined) return 0;
  const floor = current.micros - (((current.micros % MICROS_PER_MS) + MICROS_PER_MS) % MICROS_PER_MS);
  return Number(floor / MICROS_PER_MS);
}

// ---- What all code shares.

const tame = (target, key, value) =>
  Object.defineProperty(target, key, { value, writable: true, enumerable: false, configurable: true });

/** Time is the call's, and its zone is UTC. */
function tameDate() {
  const proto = NativeDate.prototype;
  const native = Object.fromEntries(Reflect.ownKeys(proto).filter(key => typeof key === 'string').map(key => [key, proto[key]]));
  const call = (name, date, ...args) => Reflect.apply(native[name], date, args);
  // ISO with a time but without a zone would be local time, and so would most else without a zone.
  const local = /^(?:[+-]\d{6}|\d{4})-\d\d-\d\dT[\d:.]+$/;
  const zoned = /^(?:[+-]\d{6}|\d{4})(?:-\d\d){0,2}(?:T[\d:.]+(?:Z|[+-]\d\d:\d\d))?$/;
  const parse = text => {
    const trimmed = `${text}`.trim();
    if (zoned.test(trimmed)) return NativeDate.parse(trimmed);
    if (local.test(trimmed)) return NativeDate.parse(`${trimmed}Z`);
    return NativeDate.parse(/(?:GMT|UTC|Z|[+-]\d{4})(?: \([^)]*\))?$/.test(trimmed) ? trimmed : `${trimmed} UTC`);
  };
  const text = date => `${dateText(date)} ${timeText(date)}`;
  const valid = date => !Number.isNaN(call('getTime', date));
  const dateText = date => {
    const [day, number, month, year] = call('toUTCString', date).replace(',', '').split(' ');
    return `${day} ${month} ${number} ${year}`;
  };
  const timeText = date => `${call('toUTCString', date).split(' ')[4]} GMT+0000 (Coordinated Universal Time)`;
  const unlessInvalid = show => ({ method() { return valid(this) ? show(this) : 'Invalid Date'; } }).method;

  function Date(...args) {
    if (!new.target) return text(new NativeDate(now()));
    let ms = now();
    if (args.length > 1) {
      ms = NativeDate.UTC(...args);
    } else if (args.length === 1) {
      let [from] = args;
      try {
        ms = call('getTime', from);
      } catch {
        if (Object(from) === from) {
          const value = from.valueOf();
          from = Object(value) === value ? `${from}` : value;
        }
        ms = typeof from === 'string' ? parse(from) : Number(from);
      }
    }
    return Reflect.construct(NativeDate, [ms], new.target);
  }
  Object.defineProperty(Date, 'length', { value: 7 });
  Object.defineProperty(Date, 'prototype', { value: proto, writable: false });
  tame(Date, 'now', () => now());
  tame(Date, 'parse', text => parse(text));
  tame(Date, 'UTC', NativeDate.UTC);
  for (const name of ['Date', 'Day', 'FullYear', 'Hours', 'Milliseconds', 'Minutes', 'Month', 'Seconds']) {
    tame(proto, `get${name}`, native[`getUTC${name}`]);
    if (name !== 'Day') tame(proto, `set${name}`, native[`setUTC${name}`]);
  }
  tame(proto, 'getYear', ({ method() { return call('getUTCFullYear', this) - 1900; } }).method);
  tame(proto, 'setYear', ({ method(year) {
    const number = Math.trunc(Number(year));
    return call('setUTCFullYear', this, number >= 0 && number <= 99 ? 1900 + number : number);
  } }).method);
  tame(proto, 'getTimezoneOffset', ({ method() { return valid(this) ? 0 : NaN; } }).method);
  for (const [name, show] of [['', text], ['Date', dateText], ['Time', timeText]]) {
    tame(proto, `to${name}String`, unlessInvalid(show));
    tame(proto, `toLocale${name}String`, unlessInvalid(show));
  }
  tame(proto, 'constructor', Date);
  tame(real, 'Date', Date);
}

/** When garbage is collected is nobody's business: references are kept, and nobody hears of what is gone. */
function tameGarbage() {
  const targets = new WeakMap();
  const WeakRef = class WeakRef {
    constructor(target) { targets.set(this, [target]); }
    deref() { return targets.get(this)?.[0]; }
  };
  const FinalizationRegistry = class FinalizationRegistry {
    constructor(cleanup) { if (typeof cleanup !== 'function') throw new TypeError('cleanup must be callable'); }
    register() {}
    unregister() { return false; }
  };
  tame(real, 'WeakRef', WeakRef);
  tame(real, 'FinalizationRegistry', FinalizationRegistry);
}

/** Clocks, threads, the machine's time zone, what has been matched last. */
function remove() {
  for (const name of ['Atomics', 'Intl', 'ShadowRealm', 'Temporal', 'WebAssembly', 'gc', 'performance']) delete real[name];
  for (const name of Reflect.ownKeys(RegExp)) {
    if (!['length', 'name', 'prototype', 'escape', Symbol.species].includes(name)) delete RegExp[name];
  }
}

/** What an object inherits from these, it could not have of its own by an assignment once they are frozen. */
function allowOverrides(proto, keys) {
  for (const key of keys) {
    const found = Object.getOwnPropertyDescriptor(proto, key);
    if (!found || !('value' in found) || !found.configurable) continue;
    const { value } = found;
    const inherited = {
      get() { return value; },
      set(own) {
        if (this === proto) throw new TypeError(`${String(key)} can't be changed for all objects`);
        Object.defineProperty(this, key, { value: own, writable: true, enumerable: true, configurable: true });
      },
    };
    Object.values(inherited).forEach(Object.freeze);
    Object.defineProperty(proto, key, { ...inherited, enumerable: found.enumerable, configurable: false });
  }
}

function harden(roots) {
  const seen = new Set();
  const queue = [...roots];
  while (queue.length > 0) {
    const it = queue.pop();
    if (Object(it) !== it || seen.has(it)) continue;
    seen.add(it);
    queue.push(Object.getPrototypeOf(it));
    for (const { value, get, set } of Object.values(Object.getOwnPropertyDescriptors(it))) queue.push(value, get, set);
    for (const key of Object.getOwnPropertySymbols(it)) {
      const { value, get, set } = Object.getOwnPropertyDescriptor(it, key);
      queue.push(value, get, set);
    }
  }
  for (const it of seen) {
    if (it === real || !Object.hasOwn(it, 'constructor')) continue;
    const isError = it === Error.prototype || Error.prototype.isPrototypeOf(it);
    const all = isError || it === Object.prototype || it === Function.prototype;
    if (all) allowOverrides(it, Object.getOwnPropertyNames(it));
    else allowOverrides(it, ['constructor', 'toString', 'valueOf', 'toLocaleString', 'toJSON']);
  }
  for (const it of seen) if (it !== real) Object.freeze(it);
}

/** What no name leads to. */
function hidden() {
  const iterators = [[], new Map(), new Set(), ''].map(it => it[Symbol.iterator]()).concat(['a'.matchAll(/a/g)]);
  if (typeof Iterator === 'function') iterators.push([].values().map(it => it), Iterator.from({ next() {} }));
  const functions = [function () {}, async function () {}, function* () {}, async function* () {}];
  return [...iterators, ...functions, functions[2](), functions[3]()].map(it => Object.getPrototypeOf(it));
}

// ---- An evaluation of the module.

/** The names that the module itself makes global as it starts. */
const own = new Set();

let names = [];

function newGlobal() {
  const global = {};
  for (const key of names) {
    if (key !== 'globalThis' && !own.has(key)) tame(global, key, real[key]);
  }
  tame(global, 'globalThis', global);
  return global;
}

/** The module as it is after start-up, which sees the time of the call. `watch` sees its global object before it does. */
function instantiate(micros, watch = global => global) {
  const it = { global: watch(newGlobal()), micros, hooks: undefined, runs: false };
  current = it;
  const sys = guarded(it);
  const exports = {};
  evaluate(
    spec => {
      if (!Object.hasOwn(sys, spec)) throw new TypeError(`Could not find module ${spec}`);
      return sys[spec];
    },
    exports,
    it.global
  );
  // A module's namespace has its names in this order, and reducers are numbered by it.
  const namespace = Object.create(null);
  for (const name of Object.keys(exports).sort()) namespace[name] = exports[name];
  it.hooks = exports.default[host.moduleHooks](Object.freeze(namespace));
  return it;
}

/** Lets the names that the module makes global be found without `globalThis`. */
function showOwnNames() {
  const show = key => {
    if (own.has(key) || (key !== 'console' && Object.hasOwn(real, key))) return;
    own.add(key);
    const get = Object.freeze(() => current?.global[key]);
    Object.defineProperty(real, key, { get, set: undefined, configurable: true });
  };
  show('console');
  instantiate(0n, global => new Proxy(global, {
    set(target, key, value) {
      show(key);
      return Reflect.set(target, key, value);
    },
    defineProperty(target, key, descriptor) {
      show(key);
      return Reflect.defineProperty(target, key, descriptor);
    },
  }));
  current = undefined;
}

// ---- The host, as the module sees it.

const NO_SUCH_TABLE = 4;
const NO_SUCH_INDEX = 5;
const NO_SUCH_ITER = 6;
const UNIQUE_ALREADY_EXISTS = 12;
const NO_SUCH_ROW = 15;

/** What the host throws; the module gets its own kind. */
class HostError extends Error {}
class SenderError extends Error {}

const errorClass = code => class extends HostError {
  constructor(message) {
    super(message);
    Object.defineProperty(this, 'code', { value: code });
  }
};

function fail(it, code, message) {
  throw new (it.hooks.__get_error_constructor__(code))(message);
}

/** The functions for one evaluation: of use in its own call alone. */
function guarded(it) {
  const guard = run => (...args) => {
    if (it.hooks === undefined) throw new Error('cannot call this function during module initialization');
    if (current !== it || !it.runs) throw new Error('the call is over');
    try {
      return run(it, ...args);
    } catch (error) {
      if (error instanceof HostError) fail(it, error.code, error.message);
      throw error;
    }
  };
  const wrapped = { moduleHooks: host.moduleHooks };
  for (const name of Object.keys(host)) {
    if (typeof host[name] !== 'function') continue;
    wrapped[name] = guard(functions[name] ?? (() => {
      throw new TypeError(`${name} is not available in a replicated module`);
    }));
  }
  const pick = from => Object.freeze(Object.fromEntries(Object.keys(from).map(name => [name, wrapped[name]])));
  return { 'spacetime:sys@2.0': pick(sys20), 'spacetime:sys@2.1': pick(sys21) };
}

// ---- Ids. The server's depend on what else it has given ids to: the module counts from 1.

const tables = PLAN.tables.map((table, ordinal) => ({ ...table, ordinal, indexes: [] }));
const indexes = [];
for (const table of tables) {
  for (const index of table.order.indexes) {
    const it = { ...index, table, id: undefined };
    table.indexes.push(it);
    indexes.push(it);
  }
}
const rows = Object.fromEntries(Object.entries(PLAN.hidden).map(([name, it]) => [name, { ...it }]));
let ready = false;

function setUp() {
  if (ready) return;
  for (const it of [...tables, ...Object.values(rows)]) it.id = host.table_id_from_name(it.name);
  for (const it of indexes) it.id = host.index_id_from_name(it.name);
  for (const it of Object.values(rows)) it.indexId = host.index_id_from_name(it.index);
  ready = true;
}

const tableOf = (it, id) => tables[id - 1] ?? fail(it, NO_SUCH_TABLE, 'No such table');
const indexOf = (it, id) => indexes[id - 1] ?? fail(it, NO_SUCH_INDEX, 'No such index');

// ---- Bytes.

const copy = (buffer, from, len) => new Uint8Array(buffer, from, len).slice();
const u64 = value => {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, asUintN(64, value), true);
  return bytes;
};
const concat = parts => {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
};
const compare = (a, b) => {
  for (let at = 0; at < a.length && at < b.length; at += 1) if (a[at] !== b[at]) return a[at] - b[at];
  return a.length - b.length;
};

/** Where a value ends. A shape is as `plan.rs` writes it. */
function skip(view, at, [kind, what]) {
  const count = () => view.getUint32(at, true);
  switch (kind) {
    case 'fixed': return at + what;
    case 'counted': return at + 4 + count() * what;
    case 'array': {
      let end = at + 4;
      for (let left = count(); left > 0; left -= 1) end = skip(view, end, what);
      return end;
    }
    case 'product': return what.reduce((end, shape) => skip(view, end, shape), at);
    default: return skip(view, at + 1, what[view.getUint8(at)]);
  }
}

// ---- Reading.

let scratch = new ArrayBuffer(64 * 1024);

/** All that the host's iterator gives. */
function drain(iterator) {
  const parts = [];
  while (true) {
    let got;
    try {
      got = host.row_iter_bsatn_advance(iterator, scratch) | 0;
    } catch (error) {
      const needed = error?.__buffer_too_small__;
      if (needed === undefined) throw error;
      scratch = new ArrayBuffer(needed);
      continue;
    }
    if (got !== 0) parts.push(copy(scratch, 0, Math.abs(got)));
    if (got <= 0) return concat(parts);
  }
}

/** Rows with equal keys stand as they happen to stand in the host: by their bytes, they do not. */
function sort(bytes, sorting) {
  if (sorting === null || bytes.length === 0) return bytes;
  const view = new DataView(bytes.buffer);
  const groups = [];
  let lastKey;
  for (let at = 0; at < bytes.length;) {
    const start = at;
    const key = [];
    for (const [kind, what] of sorting) {
      const from = at;
      at = kind === 'float' ? at + what : skip(view, at, what);
      if (kind === 'float') key.push(floatKey(view, from, what));
      else if (kind === 'key') key.push(bytes.subarray(from, at));
    }
    const same = lastKey !== undefined && key.every((part, nth) =>
      typeof part === 'object' ? compare(part, lastKey[nth]) === 0 : Object.is(part, lastKey[nth]));
    if (!same) groups.push([]);
    lastKey = key;
    groups.at(-1).push(bytes.subarray(start, at));
  }
  return concat(groups.flatMap(group => group.sort(compare)));
}

/** To the host, 0 and -0 are one key, and so is all that is no number. */
function floatKey(view, at, bytes) {
  const value = bytes === 4 ? view.getFloat32(at, true) : view.getFloat64(at, true);
  return value === 0 ? 0 : value;
}

function open(it, bytes) {
  it.iterators.push(bytes);
  return it.iterators.length;
}

const UNBOUNDED = Uint8Array.of(2, 2).buffer;

function scanTable(it, id) {
  const table = tableOf(it, id);
  const { index, scan } = table.order;
  if (index === null) return open(it, sort(drain(host.datastore_table_scan_bsatn(table.id)), scan));
  const by = table.indexes[index];
  return open(it, sort(drain(host.datastore_index_scan_range_bsatn(by.id, UNBOUNDED, 0, 0, 1, 1)), by.sorting));
}

// ---- The digest, and what is written.

const MULTIPLIER = 0x9e3779b97f4a7c15n;
const ROTATION = 29n;
const WORD = 64n;

function fold(it, word) {
  const mixed = it.digest ^ asUintN(64, word);
  const turned = asUintN(64, mixed << ROTATION) | (mixed >> (WORD - ROTATION));
  it.digest = asUintN(64, turned * MULTIPLIER);
}

function foldBytes(it, bytes) {
  fold(it, BigInt(bytes.length));
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  let at = 0;
  for (; at + 8 <= bytes.length; at += 8) fold(it, view.getBigUint64(at, true));
  let tail = 0n;
  for (; at < bytes.length; at += 1) tail = (tail << 8n) | BigInt(bytes[at]);
  fold(it, tail);
}

const INSERT = 1n;
const UPDATE = 2n;
const DELETE_EQUAL = 3n;
const DELETE_RANGE = 4n;
const DELETE_POINT = 5n;
const CLEAR = 6n;

const operation = (it, what, where) => fold(it, (what << 32n) | BigInt(where));

/** The next number of a generated column. */
function take(it, sequence) {
  let pair = it.pairs.find(pair => pair.key === sequence.key);
  pair ??= sequence.formerKey === 0n ? undefined : it.pairs.find(pair => pair.key === sequence.formerKey);
  if (pair === undefined) {
    pair = { key: sequence.key, next: sequence.start };
    it.pairs.push(pair);
  }
  pair.key = sequence.key;
  const number = pair.next;
  const beyond = sequence.increment > 0n ? number > sequence.last : number < sequence.last;
  pair.next = asIntN(64, number + (beyond ? sequence.wrap : sequence.increment));
  return number;
}

function setNumber(row, at, bytes, number) {
  for (let nth = 0; nth < bytes; nth += 1) row[at + nth] = Number((number >> BigInt(8 * nth)) & 0xffn);
}

/** Fills generated columns that are 0, and says where they stand. */
function fill(it, table, row) {
  const view = new DataView(row.buffer);
  const generated = [];
  let at = 0;
  for (const [kind, what] of table.steps) {
    if (kind === 'skip') {
      at = skip(view, at, what);
      continue;
    }
    if (row.subarray(at, at + what.bytes).every(byte => byte === 0)) {
      setNumber(row, at, what.bytes, take(it, what));
      generated.push({ at, sequence: what });
    }
    at += what.bytes;
  }
  return generated;
}

/** Gives the generated columns whose numbers are taken the next that are not; says whether any was. */
function again(it, table, row, generated) {
  let changed = false;
  for (const { at, sequence } of generated) {
    if (sequence.index === null) continue;
    const taken = () => drain(host.datastore_index_scan_point_bsatn(
      table.indexes[sequence.index].id, copy(row.buffer, at, sequence.bytes).buffer, sequence.bytes
    )).length > 0;
    for (let left = sequence.tries; left > 0 && taken(); left -= 1) {
      setNumber(row, at, sequence.bytes, take(it, sequence));
      changed = true;
    }
  }
  return changed;
}

function write(it, what, table, buffer, len, put) {
  const row = copy(buffer, 0, len);
  const generated = fill(it, table, row);
  const attempt = () => put(copy(row.buffer, 0, len).buffer);
  try {
    attempt();
  } catch (error) {
    if (!(error instanceof HostError) || error.code !== UNIQUE_ALREADY_EXISTS || !again(it, table, row, generated)) throw error;
    attempt();
  }
  operation(it, what, table.ordinal);
  foldBytes(it, row);
  const back = concat(generated.map(({ at, sequence }) => row.subarray(at, at + sequence.bytes)));
  new Uint8Array(buffer).set(back);
  return back.length;
}

const functions = {
  table_id_from_name(it, name) {
    const found = tables.findIndex(table => table.name === `${name}`);
    return found < 0 ? fail(it, NO_SUCH_TABLE, 'No such table') : found + 1;
  },
  index_id_from_name(it, name) {
    const found = indexes.findIndex(index => index.name === `${name}`);
    return found < 0 ? fail(it, NO_SUCH_INDEX, 'No such index') : found + 1;
  },
  datastore_table_row_count: (it, id) => host.datastore_table_row_count(tableOf(it, id).id),
  datastore_table_scan_bsatn: scanTable,
  datastore_index_scan_range_bsatn(it, id, ...bounds) {
    const index = indexOf(it, id);
    return open(it, sort(drain(host.datastore_index_scan_range_bsatn(index.id, ...bounds)), index.sorting));
  },
  datastore_index_scan_point_bsatn(it, id, ...point) {
    const index = indexOf(it, id);
    return open(it, sort(drain(host.datastore_index_scan_point_bsatn(index.id, ...point)), index.sorting));
  },
  row_iter_bsatn_advance(it, id, buffer) {
    const bytes = it.iterators[id - 1] ?? fail(it, NO_SUCH_ITER, 'No such iterator');
    // How many rows the host would hand out at once depends on how they stand: here it is all of them.
    if (bytes.length > buffer.byteLength) throw { __buffer_too_small__: bytes.length };
    new Uint8Array(buffer).set(bytes);
    it.iterators[id - 1] = undefined;
    return -bytes.length;
  },
  row_iter_bsatn_close(it, id) {
    if (it.iterators[id - 1] === undefined) fail(it, NO_SUCH_ITER, 'No such iterator');
    it.iterators[id - 1] = undefined;
  },
  datastore_insert_bsatn(it, id, buffer, len) {
    const table = tableOf(it, id);
    return write(it, INSERT, table, buffer, len, row => host.datastore_insert_bsatn(table.id, row, len));
  },
  datastore_update_bsatn(it, id, by, buffer, len) {
    const [table, index] = [tableOf(it, id), indexOf(it, by)];
    return write(it, UPDATE, table, buffer, len, row => host.datastore_update_bsatn(table.id, index.id, row, len));
  },
  datastore_delete_all_by_eq_bsatn(it, id, buffer, len) {
    const table = tableOf(it, id);
    const relation = copy(buffer, 0, len);
    const count = host.datastore_delete_all_by_eq_bsatn(table.id, copy(buffer, 0, len).buffer, len);
    operation(it, DELETE_EQUAL, table.ordinal);
    foldBytes(it, relation);
    return count;
  },
  datastore_delete_by_index_scan_range_bsatn(it, id, buffer, prefixLen, prefixElems, startLen, endLen) {
    const index = indexOf(it, id);
    const bounds = copy(buffer, 0, prefixLen + startLen + endLen);
    const count = host.datastore_delete_by_index_scan_range_bsatn(index.id, bounds.slice().buffer, prefixLen, prefixElems, startLen, endLen);
    operation(it, DELETE_RANGE, count);
    const start = prefixLen + startLen;
    foldBytes(it, bounds.subarray(0, prefixLen));
    foldBytes(it, bounds.subarray(prefixLen, start));
    foldBytes(it, endLen === 0 ? bounds.subarray(prefixLen, start) : bounds.subarray(start));
    return count;
  },
  datastore_delete_by_index_scan_point_bsatn(it, id, buffer, len) {
    const index = indexOf(it, id);
    const point = copy(buffer, 0, len);
    const count = host.datastore_delete_by_index_scan_point_bsatn(index.id, point.slice().buffer, len);
    operation(it, DELETE_POINT, count);
    foldBytes(it, point);
    return count;
  },
  datastore_clear(it, id) {
    const table = tableOf(it, id);
    const count = host.datastore_clear(table.id);
    operation(it, CLEAR, table.ordinal);
    foldBytes(it, u64(count));
    return count;
  },
  console_log: (_it, level, message) => host.console_log(level, message),
  // Spans are numbered through all calls of an instance, and only what is logged depends on them.
  console_timer_start: it => (it.timers += 1),
  console_timer_end: () => undefined,
  identity: () => host.identity(),
};

// ---- Hidden rows.

const STATE_BYTES = 121;
const INDEX_AT = 1;
const DIGEST_AT = 9;
const MODULE_AT = 17;
const SUMS_AT = 25;
const SUMS = 8;
const PAIRS_AT = 57;
const PAIR_BYTES = 16;

const only = table => drain(host.datastore_table_scan_bsatn(table.id));

/** In the place of the row with its key, or as a new one. */
function put(table, row) {
  try {
    host.datastore_update_bsatn(table.id, table.indexId, row.slice().buffer, row.length);
  } catch (error) {
    if (!(error instanceof HostError) || error.code !== NO_SUCH_ROW) throw error;
    host.datastore_insert_bsatn(table.id, row.slice().buffer, row.length);
  }
}

function readPairs(view, at, end) {
  const pairs = [];
  for (; at < end; at += PAIR_BYTES) {
    const key = view.getBigUint64(at, true);
    if (key !== 0n) pairs.push({ key, next: view.getBigInt64(at + 8, true) });
  }
  return pairs;
}

function readState() {
  const bytes = only(rows.state);
  const present = bytes.length > 0;
  if (present && bytes.length !== STATE_BYTES) throw new Error('rtdb_state is not as it should be');
  const row = present ? bytes : new Uint8Array(STATE_BYTES);
  const view = new DataView(row.buffer);
  const more = only(rows.sequence);
  const moreView = new DataView(more.buffer);
  return {
    row,
    view,
    present,
    index: view.getBigUint64(INDEX_AT, true),
    digest: view.getBigUint64(DIGEST_AT, true),
    pairs: [...readPairs(view, PAIRS_AT, STATE_BYTES), ...readPairs(moreView, Math.min(5, more.length), more.length)],
  };
}

const PRIME = (1n << 31n) - 1n;
const FACTORS = [0x9e3779b97f4a7c15n, 0xd6e8feb86659fd93n];

/** See `successes.rs`. */
function count(view, index) {
  let mixed = asUintN(64, index * FACTORS[0]);
  mixed = asUintN(64, (mixed ^ (mixed >> 32n)) * FACTORS[1]);
  const element = (mixed >> 33n) % PRIME;
  let power = 1n;
  for (let at = SUMS_AT; at < SUMS_AT + 4 * SUMS; at += 4) {
    view.setUint32(at, Number((BigInt(view.getUint32(at, true)) + power) % PRIME), true);
    power = (power * element) % PRIME;
  }
}

function writeState(state, it, index, published) {
  const { row, view } = state;
  const inRow = (STATE_BYTES - PAIRS_AT) / PAIR_BYTES;
  view.setBigUint64(INDEX_AT, index, true);
  view.setBigUint64(DIGEST_AT, it.digest, true);
  if (published) view.setBigUint64(MODULE_AT, index, true);
  count(view, index);
  const pairs = it.pairs.map(({ key, next }) => concat([u64(key), u64(next)]));
  row.set(concat(pairs.slice(0, inRow)), PAIRS_AT);
  const more = concat(pairs.slice(inRow));
  if (more.length > 0) {
    const head = new Uint8Array(5);
    new DataView(head.buffer).setUint32(1, more.length, true);
    put(rows.sequence, concat([head, more]));
  }
  put(rows.state, row);
}

// ---- A call.

const MARK = PLAN.reducers;
const DISCONNECT = PLAN.reducers + 1;

function callReducer(id, _sender, _connection, _timestamp, view) {
  setUp();
  const word = at => view.getBigUint64(at, true);
  const wide = (at, words) => {
    let value = 0n;
    for (let nth = words - 1; nth >= 0; nth -= 1) value = (value << 64n) | word(at + 8 * nth);
    return value;
  };
  const header = {
    sender: wide(0, 4),
    connection: wide(32, 2),
    micros: view.getBigInt64(48, true),
    index: word(56),
    session: word(64),
  };
  if (id > DISCONNECT) throw new Error('this hidden reducer is not there yet');
  const state = readState();
  if (state.present && header.index <= state.index) {
    if (id < PLAN.reducers) throw new SenderError(PLAN.skipped);
    return;
  }
  const its = { digest: state.digest, pairs: state.pairs };
  if (id < PLAN.reducers) {
    // The host's buffer is used again for the next call, and the header is in it.
    const args = copy(view.buffer, view.byteOffset + HEADER_BYTES, view.byteLength - HEADER_BYTES);
    run(its, header, hooks => hooks.__call_reducer__(id, header.sender, header.connection, header.micros, new DataView(args.buffer)));
  }
  const published = id === PLAN.init || (id === MARK && view.getUint8(HEADER_BYTES) !== 0);
  writeState(state, its, header.index, published);
  if (id === DISCONNECT || id === PLAN.clientDisconnected) {
    for (const table of [rows.session, rows.claims]) {
      host.datastore_delete_by_index_scan_point_bsatn(table.indexId, u64(header.session).buffer, 8);
    }
  } else if (asIntN(64, header.session) > 0n) {
    put(rows.session, concat([u64(header.session), u64(header.index)]));
  }
}

/** Runs the module, as new, with the digest and the numbers of `its`, which are as it has left them afterwards. */
function run(its, { micros }, call) {
  try {
    const it = instantiate(micros);
    Object.assign(it, { runs: true, iterators: [], timers: 0, digest: its.digest, pairs: its.pairs });
    try {
      if (call(it.hooks) !== undefined) throw new TypeError('Reducer returned a value other than `undefined`');
    } catch (error) {
      const Sender = it.hooks.__sender_error_class__;
      if (Object(error) === error && error instanceof Sender) throw new SenderError(String(error.message));
      throw error;
    } finally {
      it.runs = false;
    }
    its.digest = it.digest;
  } finally {
    current = undefined;
  }
}

// ---- Before the module's first line.

tameDate();
tameGarbage();
remove();
names = Reflect.ownKeys(real);
harden([...names.map(key => real[key]), ...hidden()]);
showOwnNames();
Object.freeze(real);

const unavailable = () => {
  throw new Error('neither views nor procedures nor HTTP handlers are there yet');
};

export default {
  [host.moduleHooks]: () => ({
    __describe_module__: () => Uint8Array.from(PLAN.def),
    __get_error_constructor__: errorClass,
    __sender_error_class__: SenderError,
    __call_reducer__: callReducer,
    __call_view__: unavailable,
    __call_view_anon__: unavailable,
    __call_procedure__: unavailable,
    __call_http_handler__: unavailable,
  }),
};
