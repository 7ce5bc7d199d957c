// What `spacetime generate --lang typescript` makes of `modules/counter-1x`, written by hand in plain
// JavaScript so that neither the CLI nor a compiler is needed: the `counter` table and two reducers, no more.

import {
  AlgebraicType,
  BinaryWriter,
  DbConnectionBuilder,
  ProductTypeElement,
} from '@clockworklabs/spacetimedb-sdk';

function product(fields) {
  const elements = Object.entries(fields).map(([name, type]) => new ProductTypeElement(name, type));
  return AlgebraicType.createProductType(elements);
}

const tables = {
  counter: {
    tableName: 'counter',
    rowType: product({
      id: AlgebraicType.createU64Type(),
      name: AlgebraicType.createStringType(),
      value: AlgebraicType.createI64Type(),
      at: AlgebraicType.createTimestampType(),
      by: AlgebraicType.createIdentityType(),
    }),
    primaryKey: 'id',
    primaryKeyInfo: { colName: 'id', colType: AlgebraicType.createU64Type() },
  },
};

const reducers = {
  add: {
    reducerName: 'add',
    argsType: product({ name: AlgebraicType.createStringType(), value: AlgebraicType.createI64Type() }),
  },
  fail: {
    reducerName: 'fail',
    argsType: product({ message: AlgebraicType.createStringType() }),
  },
};

class SetReducerFlags {
  addFlags = 'FullUpdate';
  failFlags = 'FullUpdate';

  add(flags) {
    this.addFlags = flags;
  }

  fail(flags) {
    this.failFlags = flags;
  }
}

class RemoteReducers {
  #connection;
  #flags;

  constructor(connection, flags) {
    this.#connection = connection;
    this.#flags = flags;
  }

  add(name, value) {
    this.#call(reducers.add, { name, value }, this.#flags.addFlags);
  }

  onAdd(callback) {
    this.#connection.onReducer('add', callback);
  }

  fail(message) {
    this.#call(reducers.fail, { message }, this.#flags.failFlags);
  }

  onFail(callback) {
    this.#connection.onReducer('fail', callback);
  }

  #call(reducer, args, flags) {
    const writer = new BinaryWriter(1024);
    reducer.argsType.serialize(writer, args);
    this.#connection.callReducer(reducer.reducerName, writer.getBuffer(), flags);
  }
}

class RemoteTables {
  #connection;

  constructor(connection) {
    this.#connection = connection;
  }

  get counter() {
    return this.#connection.clientCache.getOrCreateTable(tables.counter);
  }
}

const REMOTE_MODULE = {
  tables,
  reducers,
  versionInfo: { cliVersion: '1.2.0' },
  eventContextConstructor: (connection, event) => ({ ...connection, event }),
  dbViewConstructor: (connection) => new RemoteTables(connection),
  reducersConstructor: (connection, flags) => new RemoteReducers(connection, flags),
  setReducerFlagsConstructor: () => new SetReducerFlags(),
};

export const DbConnection = {
  builder: () => new DbConnectionBuilder(REMOTE_MODULE, (connection) => connection),
};
