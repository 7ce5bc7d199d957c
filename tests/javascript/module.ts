// A module that keeps what it should not, and asks what differs from server to server.
import { Range, schema, table, t, SenderError } from 'spacetimedb/server';

const person = table(
  { name: 'person', public: true },
  { id: t.u32().primaryKey().autoInc(), name: t.string(), at: t.timestamp() }
);
const note = table(
  { name: 'note', indexes: [{ accessor: 'byKind', algorithm: 'btree', columns: ['kind'] }] },
  { kind: t.u32(), text: t.string() }
);
const small = table({ name: 'small' }, { id: t.u8().primaryKey().autoInc() });

// More generated columns than `rtdb_state` has room for.
const counted = (name: string) => table({ name }, { id: t.u64().primaryKey().autoInc(), text: t.string() });
const [one, two, three, four] = ['one', 'two', 'three', 'four'].map(counted);

const spacetimedb = schema({ person, note, small, one, two, three, four });
export default spacetimedb;

let calls = 0;
const cache = new Map<string, number>();

export const init = spacetimedb.init(ctx => {
  ctx.db.person.insert({ id: 0, name: 'init', at: ctx.timestamp });
});

export const came = spacetimedb.clientConnected(ctx => {
  ctx.db.note.insert({ kind: 7, text: `${ctx.sender.toHexString()} ${ctx.connectionId?.toHexString()}` });
});

export const left = spacetimedb.clientDisconnected(ctx => {
  ctx.db.note.insert({ kind: 8, text: ctx.sender.toHexString() });
});

export const add = spacetimedb.reducer({ name: t.string() }, (ctx, { name }) => {
  calls += 1;
  cache.set(name, (cache.get(name) ?? 0) + 1);
  ctx.db.person.insert({ id: 0, name: `${name} ${calls} ${cache.size}`, at: ctx.timestamp });
});

export const random = spacetimedb.reducer(ctx => {
  ctx.db.note.insert({ kind: 1, text: `${ctx.random()} ${ctx.newUuidV4()} ${ctx.newUuidV7()}` });
});

export const clock = spacetimedb.reducer(ctx => {
  const day = new Date(2024, 6, 1, 12);
  const texts = [Date.now(), new Date(), day.getTime(), day.getHours(), day, day.toLocaleString(), Date.parse('2024-07-01T12:00')];
  texts.push(new Date('July 1, 2024 12:00').toISOString(), day.getTimezoneOffset(), typeof Intl, typeof performance);
  ctx.db.note.insert({ kind: 2, text: texts.join(' | ') });
});

export const twice = spacetimedb.reducer(ctx => {
  const { id } = ctx.db.person.insert({ id: 0, name: 'once', at: ctx.timestamp });
  ctx.db.person.id.update({ id, name: 'twice', at: ctx.timestamp });
  ctx.db.note.insert({ kind: 3, text: `${id}` });
});

export const fill = spacetimedb.reducer(ctx => {
  ctx.db.small.insert({ id: 2 });
  ctx.db.small.insert({ id: 3 });
  for (let n = 0; n < 3; n += 1) ctx.db.small.insert({ id: 0 });
});

export const number = spacetimedb.reducer(ctx => {
  for (const it of [ctx.db.four, ctx.db.three, ctx.db.two, ctx.db.one]) {
    const { id } = it.insert({ id: 0n, text: '' });
    it.insert({ id: 0n, text: `after ${id}` });
  }
});

export const list = spacetimedb.reducer(ctx => {
  const all = [...ctx.db.note.iter()].map(({ kind }) => kind);
  const some = [...ctx.db.note.byKind.filter(9)].map(({ text }) => text);
  ctx.db.note.insert({ kind: 4, text: `${all} ${some}` });
});

export const many = spacetimedb.reducer(ctx => {
  for (const text of ['c', 'a', 'b', 'e', 'd']) ctx.db.note.insert({ kind: 9, text });
});

export const forget = spacetimedb.reducer(ctx => {
  ctx.db.note.byKind.delete(9);
  ctx.db.person.id.delete(1);
});

export const cut = spacetimedb.reducer(ctx => {
  const from = ctx.db.note.byKind.delete(new Range({ tag: 'included', value: 7 }, { tag: 'excluded', value: 9 }));
  const equal = ctx.db.small.delete({ id: 5 });
  const all = ctx.db.one.clear();
  ctx.db.note.insert({ kind: 6, text: `${from} ${equal} ${all}` });
});

export const fails = spacetimedb.reducer(ctx => {
  ctx.db.person.insert({ id: 0, name: 'never', at: ctx.timestamp });
  throw new SenderError('no');
});

class OwnError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'OwnError';
  }
}

export const stash = spacetimedb.reducer(ctx => {
  const tried: [string, () => unknown][] = [
    ['global', () => ((globalThis as any).stash = ((globalThis as any).stash ?? 0) + 1)],
    ['prototype', () => ((Object.prototype as any).stash = 1)],
    ['array', () => ((Array as any).stash = ((Array as any).stash ?? 0) + 1)],
    ['push', () => (Array.prototype.push = () => 0)],
    ['function', () => ((Function.prototype as any).stash = 1)],
    ['toString', () => (Object.prototype.toString = () => '')],
    ['getter', () => {
      const { get } = Object.getOwnPropertyDescriptor(Object.prototype, '__proto__') as any;
      get.stash = (get.stash ?? 0) + 1;
    }],
    ['override', () => {
      const { get } = Object.getOwnPropertyDescriptor(Error.prototype, 'name') as any;
      get.stash = (get.stash ?? 0) + 1;
    }],
    ['symbols', () => ((Symbol.prototype as any).stash = 1)],
    ['generator', () => ((Object.getPrototypeOf(function* () {}) as any).stash = 1)],
    ['code', () => new Function('"use strict"; return this.stash = 1').call(new Function('return this')())],
    ['sloppy', () => (new Function('stash = 1')(), new Function('return this.stash')())],
    ['eval', () => (0, eval)('var stash = 1')],
    ['weak', () => typeof new WeakRef({}).deref()],
    ['matched', () => /(.)/.test(`${calls}`) && (RegExp as any).$1],
    ['console', () => ((console as any).stash = ((console as any).stash ?? 0) + 1)],
    ['error', () => `${new OwnError('own').name} ${new OwnError('own') instanceof Error}`],
    ['thrown', () => ctx.db.person.insert({ id: 1, name: 'taken', at: ctx.timestamp })],
    ['table', () => Object.keys(ctx.db)],
  ];
  calls += 1;
  const texts = tried.map(([what, attempt]) => {
    try {
      return `${what}: ${attempt()}`;
    } catch (error: any) {
      return `${what}: ${error.name} ${error instanceof Error}`;
    }
  });
  ctx.db.note.insert({ kind: 5, text: texts.join('\n') });
});

export const later = spacetimedb.reducer(ctx => {
  const { db, timestamp } = ctx;
  Promise.resolve().then(() => db.person.insert({ id: 0, name: 'later', at: timestamp }));
});
