// One SDK connection with its callbacks turned into promises. Nothing here bounds a wait in time: the
// steps of the check do.

import { DbConnection } from './module_bindings.mjs';

/** All that the SDK has reported to one client, in order. */
class Events {
  #seen = [];
  #waiting = [];
  #failure;

  push(event) {
    this.#seen.push(event);
    this.#waiting = this.#waiting.filter(({ matches, resolve }) => {
      if (!matches(event)) return true;
      resolve(event);
      return false;
    });
  }

  /** Ends every wait, now and later: nothing more will come. */
  fail(error) {
    this.#failure = error;
    for (const { reject } of this.#waiting.splice(0)) reject(error);
  }

  /** The first event that matches, whether it has come already or not. */
  first(matches) {
    const event = this.#seen.find(matches);
    if (event) return Promise.resolve(event);
    if (this.#failure) return Promise.reject(this.#failure);
    return new Promise((resolve, reject) => this.#waiting.push({ matches, resolve, reject }));
  }

  /** Those that match among what has come until now. */
  seen(matches) {
    return this.#seen.filter(matches);
  }
}

export class Client {
  events = new Events();
  token;
  #connection;
  #closed;

  /** Resolves at `onConnect`, rejects at `onConnectError`. `configure` sets more of the SDK's options. */
  static connect(uri, database, configure = (builder) => builder) {
    const client = new Client();
    return new Promise((resolve, reject) => {
      const closed = new Promise((resolveClosed) => {
        const ended = (_context, cause) => {
          client.events.fail(new Error(`the connection ended: ${explain(cause)}`));
          reject(new Error(explain(cause)));
          resolveClosed();
        };
        // SDK 1.3.3 reports the end of an open connection at `onConnectError`, never at `onDisconnect`.
        const builder = DbConnection.builder().withUri(uri).withModuleName(database);
        builder.onDisconnect(ended).onConnectError(ended);
        builder.onConnect((_connection, _identity, token) => {
          client.token = token;
          resolve(client);
        });
        client.#connection = configure(builder).build();
      });
      client.#closed = closed;
      client.#listen();
    });
  }

  #listen() {
    const { events } = this;
    const { db, reducers } = this.#connection;
    reducers.onAdd((context, name) => events.push({ kind: 'add', name, event: context.event }));
    reducers.onFail((context, name) => events.push({ kind: 'fail', name, event: context.event }));
    db.counter.onInsert((context, row) => {
      events.push({ kind: 'insert', name: row.name, row, event: context.event });
    });
  }

  get identity() {
    return this.#connection.identity;
  }

  get connectionId() {
    return this.#connection.connectionId;
  }

  get rows() {
    return this.#connection.db.counter.iter();
  }

  add(name, value = 0n) {
    this.#connection.reducers.add(name, value);
  }

  fail(message) {
    this.#connection.reducers.fail(message);
  }

  /** How the server is to report this client's calls from now on: 'FullUpdate' or 'NoSuccessNotify'. */
  setFlags(flags) {
    this.#connection.setReducerFlags.add(flags);
    this.#connection.setReducerFlags.fail(flags);
  }

  /** Resolves with the handle at `onApplied`, rejects with the server's message at `onError`. */
  subscribe(query) {
    return new Promise((resolve, reject) => {
      const handle = this.#connection
        .subscriptionBuilder()
        .onApplied(() => resolve(handle))
        .onError((_context, error) => reject(error))
        .subscribe(query);
    });
  }

  unsubscribe(handle) {
    return new Promise((resolve) => handle.unsubscribeThen(resolve));
  }

  disconnect() {
    this.#connection.disconnect();
    return this.#closed;
  }

  /** The first call of `reducer` with this name (or message) that is reported to this client. */
  called(reducer, name) {
    return this.events.first((event) => event.kind === reducer && event.name === name);
  }

  /** The first row of this name that is reported to this client. */
  inserted(name) {
    return this.events.first((event) => event.kind === 'insert' && event.name === name);
  }

  /** How often callbacks of this kind ran for this name until now. */
  count(kind, name) {
    return this.events.seen((event) => event.kind === kind && event.name === name).length;
  }
}

/** The SDK hands over an Error, or the event of the WebSocket. */
function explain(cause) {
  if (cause?.type === 'close') return `closed with code ${cause.code} ${cause.reason}`.trimEnd();
  return cause?.message || cause?.error?.message || 'no reason given';
}
