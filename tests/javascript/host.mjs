// What a server's V8 host is to a module (`crates/core/src/host/v8` of SpacetimeDB 2.8.3), as far as the checks need it: the
// module's realm, the functions of `spacetime:sys@2.0` and `@2.1`, and rows in memory.
import vm from 'node:vm';

const ERRORS = { 4: 'No such table', 5: 'No such index', 6: 'No such iterator', 12: 'Value is taken', 15: 'No such row' };

const hex = bytes => Buffer.from(bytes).toString('hex');

/** Where a value ends. */
export function skip(view, at, [kind, what]) {
  if (kind === 'fixed') return at + what;
  if (kind === 'counted') return at + 4 + view.getUint32(at, true) * what;
  throw new Error(`no column of a check is ${kind}`);
}

function columns(table, row) {
  const view = new DataView(row.buffer, row.byteOffset, row.length);
  let at = 0;
  return table.columns.map(shape => {
    const from = at;
    at = skip(view, at, shape);
    return row.subarray(from, at);
  });
}

/** Numbers by their values, and whatever has a length by its bytes. */
function compareColumn([kind], a, b) {
  return kind === 'fixed' ? Buffer.compare(Buffer.from(a).reverse(), Buffer.from(b).reverse()) : Buffer.compare(a, b);
}

export class Host {
  /** `schema` is as the test writes it. `seed` decides on ids, and on where rows stand. */
  constructor(program, schema, { seed = 1, chunk = 40 } = {}) {
    Object.assign(this, { program, schema, seed, chunk });
    this.tables = new Map();
    this.indexes = new Map();
    let id = seed * 1000;
    for (const table of schema.tables) {
      const it = { ...table, id: (id += 1 + (seed % 3)), rows: new Map(), next: new Map() };
      this.tables.set(it.id, it);
      for (const index of table.indexes) this.indexes.set((id += 1), { ...index, table: it });
    }
    this.log = [];
  }

  /** A new isolate. */
  async start() {
    // Not contextified: its global object is V8's own, with nothing of Node's.
    const realm = vm.createContext(vm.constants.DONT_CONTEXTIFY);
    vm.runInContext(`
      delete Math.random;
      Object.defineProperty(Math, 'random', { get() { throw new TypeError('not available'); }, configurable: true });
      // As V8 14.5 has them.
      for (const name of ['dispose', 'asyncDispose']) {
        if (!(name in Symbol)) Object.defineProperty(Symbol, name, { value: Symbol('Symbol.' + name) });
      }
      Set.prototype.isSubsetOf ??= function isSubsetOf(other) {
        for (const it of this) if (!other.has(it)) return false;
        return true;
      };
    `, realm);
    // Of the realm, as everything that the server's host makes: what is thrown, and what bytes are in.
    this.make = vm.runInContext('({ error: text => new Error(text), view: (buffer, len) => new DataView(buffer, 0, len) })', realm);
    realm.TextEncoder = vm.runInContext(`(encode => class TextEncoder { encode(text = '') { return Uint8Array.from(encode(text)); } })`, realm)(
      text => new TextEncoder().encode(text)
    );
    realm.TextDecoder = vm.runInContext(`(decode => class TextDecoder { decode(bytes) { return decode(bytes); } })`, realm)(
      bytes => new TextDecoder().decode(bytes)
    );
    const symbol = Symbol('SpacetimeDB.moduleHooks.v2');
    const { datastore_clear, ...rest } = this.functions();
    const modules = { 'spacetime:sys@2.0': { moduleHooks: symbol, ...rest }, 'spacetime:sys@2.1': { datastore_clear } };
    const module = new vm.SourceTextModule(this.program, { context: realm, identifier: 'spacetimedb_module' });
    await module.link(spec => {
      const exported = modules[spec];
      if (!exported) throw new TypeError(`Could not find module ${spec}`);
      return new vm.SyntheticModule(Object.keys(exported), function () {
        for (const [name, value] of Object.entries(exported)) this.setExport(name, value);
      }, { context: realm });
    });
    await module.evaluate();
    this.hooks = module.namespace.default[symbol](module.namespace);
    this.sender = this.hooks.__sender_error_class__;
    this.args = vm.runInContext('new ArrayBuffer(4096)', realm);
  }

  describe() {
    return this.hooks.__describe_module__();
  }

  /** Calls a reducer in a transaction. The server would say `{ sender, connection, micros }` to a module without a shim. */
  async call(name, args = new Uint8Array(), { sender = 1n, connection = 0n, micros = 0n } = {}) {
    const id = this.schema.reducers.indexOf(name);
    if (id < 0) throw new Error(`there is no reducer ${name}`);
    const before = [...this.tables.values()].map(it => [it, new Map(it.rows)]);
    this.iterators = new Map();
    this.writes = [];
    new Uint8Array(this.args).set(args);
    const view = this.make.view(this.args, args.length);
    this.open = true;
    let failure;
    try {
      const returned = this.hooks.__call_reducer__(id, sender, connection, micros, view);
      if (returned !== undefined) failure = 'a value other than `undefined`';
    } catch (error) {
      failure = error instanceof this.sender ? String(error.message) : `trap: ${error?.stack ?? error}`;
    }
    // V8 runs what promises have left before it gives the call back, and so it is in the transaction.
    await new Promise(setImmediate);
    this.open = false;
    if (failure === undefined) this.log.push(...this.writes);
    else for (const [it, rows] of before) it.rows = rows;
    return failure;
  }

  /** A table's rows, in hexadecimal. */
  rows(name) {
    return [...this.table(name).rows.keys()].sort();
  }

  dump() {
    return Object.fromEntries([...this.tables.values()].map(({ name }) => [name, this.rows(name)]));
  }

  table(name) {
    return [...this.tables.values()].find(it => it.name === name);
  }

  fail(code) {
    throw new (this.hooks.__get_error_constructor__(code))(ERRORS[code]);
  }

  /** Where rows stand, which is nobody's to rely on. */
  physical(rows) {
    const mixed = row => hex(row).split('').reduce((hash, c) => (hash * 31 + c.charCodeAt(0) * this.seed) >>> 0, this.seed);
    return rows.sort((a, b) => mixed(a) - mixed(b));
  }

  found(index, test) {
    const { table } = index;
    const key = row => index.columns.map(nth => columns(table, row)[nth]);
    const rows = this.physical([...table.rows.values()].filter(row => test(key(row), index.columns.map(nth => table.columns[nth]))));
    if (index.hash) return rows;
    return rows.sort((a, b) => {
      const [left, right] = [key(a), key(b)];
      for (const [nth, column] of index.columns.entries()) {
        const order = compareColumn(table.columns[column], left[nth], right[nth]);
        if (order !== 0) return order;
      }
      return 0;
    });
  }

  point(index, bytes) {
    return this.found(index, key => hex(Buffer.concat(key)) === hex(bytes));
  }

  range(index, buffer, prefixLen, prefixElems, startLen, endLen) {
    const bytes = new Uint8Array(buffer.slice(0, prefixLen + startLen + endLen));
    const start = bytes.subarray(prefixLen, prefixLen + startLen);
    const end = endLen === 0 ? start : bytes.subarray(prefixLen + startLen);
    return this.found(index, (key, shapes) => {
      const prefix = Buffer.concat(key.slice(0, prefixElems));
      if (hex(prefix) !== hex(bytes.subarray(0, prefixLen))) return false;
      const within = ([tag, ...bound], sign) => {
        if (tag === 2) return true;
        const order = sign * compareColumn(shapes[prefixElems], key[prefixElems], Uint8Array.from(bound));
        return tag === 0 ? order >= 0 : order > 0;
      };
      return within(start, 1) && within(end, -1);
    });
  }

  iterator(rows) {
    const id = (this.lastIterator = (this.lastIterator ?? this.seed * 7) + 1);
    this.iterators.set(id, rows.map(row => Uint8Array.from(row)));
    return id;
  }

  insert(table, buffer, len, replaced) {
    const row = new Uint8Array(buffer.slice(0, len));
    const parts = columns(table, row);
    const generated = [];
    for (const nth of table.sequences) {
      const part = parts[nth];
      if (part.every(byte => byte === 0)) {
        // A server's sequences go on whatever becomes of the call.
        const next = (table.next.get(nth) ?? 0) + 1;
        table.next.set(nth, next);
        part.set(Uint8Array.of(next & 0xff, next >> 8, 0, 0).subarray(0, part.length));
      }
      generated.push(part);
    }
    for (const unique of table.unique) {
      const key = of => hex(Buffer.concat(unique.map(nth => columns(table, of)[nth])));
      for (const other of table.rows.values()) {
        if (hex(other) !== replaced && key(other) === key(row)) this.fail(12);
      }
    }
    if (replaced !== undefined) table.rows.delete(replaced);
    table.rows.set(hex(row), row);
    const back = Buffer.concat(generated);
    new Uint8Array(buffer).set(back);
    return { row, back: back.length };
  }

  remove(table, rows) {
    for (const row of rows) table.rows.delete(hex(row));
    return rows.length;
  }

  note(operation, table, where, ...bytes) {
    if (!table.name.startsWith('rtdb_')) this.writes.push([operation, where, bytes.map(hex)]);
  }

  functions() {
    const table = id => this.tables.get(id) ?? this.fail(4);
    const index = id => this.indexes.get(id) ?? this.fail(5);
    const ordinal = of => [...this.tables.values()].indexOf(of);
    const named = (all, name, code) => [...all].find(([, it]) => it.name === name)?.[0] ?? this.fail(code);
    const part = (buffer, from, len) => new Uint8Array(buffer.slice(from, from + len));
    const all = {
      table_id_from_name: name => named(this.tables, name, 4),
      index_id_from_name: name => named(this.indexes, name, 5),
      datastore_table_row_count: id => BigInt(table(id).rows.size),
      datastore_table_scan_bsatn: id => this.iterator(this.physical([...table(id).rows.values()])),
      datastore_index_scan_range_bsatn: (id, ...bounds) => this.iterator(this.range(index(id), ...bounds)),
      datastore_index_scan_point_bsatn: (id, buffer, len) => this.iterator(this.point(index(id), part(buffer, 0, len))),
      row_iter_bsatn_advance: (id, buffer) => {
        const rows = this.iterators.get(id) ?? this.fail(6);
        const to = new Uint8Array(buffer);
        let at = 0;
        // Some rows at a time, as they stand.
        while (rows.length > 0 && at + rows[0].length <= to.length && at < this.chunk) {
          to.set(rows[0], at);
          at += rows.shift().length;
        }
        if (at === 0 && rows.length > 0) throw Object.assign({}, { __buffer_too_small__: rows[0].length });
        if (rows.length > 0) return at;
        this.iterators.delete(id);
        return -at;
      },
      row_iter_bsatn_close: id => void (this.iterators.delete(id) || this.fail(6)),
      datastore_insert_bsatn: (id, buffer, len) => {
        const { row, back } = this.insert(table(id), buffer, len);
        this.note(1, table(id), ordinal(table(id)), row);
        return back;
      },
      datastore_update_bsatn: (id, by, buffer, len) => {
        const row = part(buffer, 0, len);
        const { columns: keys } = index(by);
        const [old] = this.point(index(by), Buffer.concat(keys.map(nth => columns(table(id), row)[nth])));
        if (old === undefined) this.fail(15);
        const { row: written, back } = this.insert(table(id), buffer, len, hex(old));
        this.note(2, table(id), ordinal(table(id)), written);
        return back;
      },
      datastore_delete_all_by_eq_bsatn: (id, buffer, len) => {
        const relation = part(buffer, 0, len);
        this.note(3, table(id), ordinal(table(id)), relation);
        const rows = [...table(id).rows.values()];
        return this.remove(table(id), rows.filter(row => hex(relation).slice(8).includes(hex(row))));
      },
      datastore_delete_by_index_scan_range_bsatn: (id, buffer, prefixLen, prefixElems, startLen, endLen) => {
        const { table: of } = index(id);
        const count = this.remove(of, this.range(index(id), buffer, prefixLen, prefixElems, startLen, endLen));
        const start = part(buffer, prefixLen, startLen);
        const end = endLen === 0 ? start : part(buffer, prefixLen + startLen, endLen);
        this.note(4, of, count, part(buffer, 0, prefixLen), start, end);
        return count;
      },
      datastore_delete_by_index_scan_point_bsatn: (id, buffer, len) => {
        const count = this.remove(index(id).table, this.point(index(id), part(buffer, 0, len)));
        this.note(5, index(id).table, count, part(buffer, 0, len));
        return count;
      },
      datastore_clear: id => {
        const count = this.remove(table(id), [...table(id).rows.values()]);
        const bytes = new Uint8Array(8);
        new DataView(bytes.buffer).setBigUint64(0, BigInt(count), true);
        this.note(6, table(id), ordinal(table(id)), bytes);
        return BigInt(count);
      },
      volatile_nonatomic_schedule_immediate: () => {},
      console_log: () => {},
      console_timer_start: () => 1,
      console_timer_end: () => {},
      identity: () => 42n,
      get_jwt_payload: () => new Uint8Array(),
    };
    for (const name of ['procedure_http_request', 'procedure_start_mut_tx', 'procedure_commit_mut_tx', 'procedure_abort_mut_tx']) {
      all[name] = () => this.fail(2);
    }
    return Object.fromEntries(Object.entries(all).map(([name, run]) => [name, (...args) => {
      if (!this.open) throw this.make.error('cannot call this function during module initialization');
      return run(...args);
    }]));
  }
}
