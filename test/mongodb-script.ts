import { randomBytes } from 'node:crypto';
import { createServer, type Server, type Socket } from 'node:net';
import { BSON, Timestamp, UUID, type Document } from 'mongodb';

/** What a collection of a scripted server is. */
export interface ScriptedCollection {
  uuid: UUID;
  options: Document;
  indexes: Document[];
  documents: Document[];
}

export interface ScriptedServer {
  readonly uri: string;
  /** By `database.name`. */
  readonly collections: Map<string, ScriptedCollection>;
  /** Every command, oldest first, without those that keep the connection. */
  readonly commands: Document[];
  collection(qualified: string, documents?: readonly Document[], options?: Document): ScriptedCollection;
  /** Asked first; what it gives is the answer. */
  script: (command: Document) => Document | undefined;
  close(): Promise<void>;
}

const ID_INDEX = { v: 2, key: { _id: 1 }, name: '_id_' };
const QUIET = new Set(['hello', 'ismaster', 'isMaster', 'endSessions', 'ping', 'buildInfo']);

export function refusal(code: number, errmsg = 'scripted'): Document {
  return { ok: 0, code, errmsg, codeName: 'Scripted' };
}

/**
 * The little of a replica set's primary that FerretDB does not have: moments, rights, write concerns. It speaks the wire protocol to the
 * official driver and keeps documents; what a version of MongoDB answers is scripted by each test, from its documentation.
 */
export async function scriptedServer(more: Document = {}): Promise<ScriptedServer> {
  const collections = new Map<string, ScriptedCollection>();
  const commands: Document[] = [];
  const sockets = new Set<Socket>();
  let second = 1_700_000_000;

  function inDatabase(database: string): [string, ScriptedCollection][] {
    return [...collections].filter(([key]) => key.startsWith(`${database}.`)).map(([key, one]) => [key.slice(database.length + 1), one]);
  }
  const cursor = (ns: string, firstBatch: Document[], also: Document = {}): Document => ({ ok: 1, cursor: { id: 0n, ns, firstBatch, ...also } });

  const server: ScriptedServer = {
    uri: '',
    collections,
    commands,
    collection(qualified, documents = [], options = {}) {
      const one: ScriptedCollection = { uuid: new UUID(), options, indexes: [ID_INDEX], documents: [...documents] };
      collections.set(qualified, one);
      return one;
    },
    script: () => undefined,
    async close() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => void listener.close(resolve));
    },
  };

  function answer(command: Document): Document {
    const [verb, subject] = Object.entries(command)[0] as [string, unknown];
    if (!QUIET.has(verb)) commands.push(command);
    const scripted = server.script(command);
    if (scripted !== undefined) return scripted;
    const database = String(command['$db']);
    const ns = `${database}.${String(subject)}`;
    const here = collections.get(ns);
    switch (verb) {
      case 'hello': case 'ismaster': case 'isMaster':
        return { ok: 1, helloOk: true, isWritablePrimary: true, ismaster: true, setName: 'rs0', hosts: [`127.0.0.1:${port}`], me: `127.0.0.1:${port}`, primary: `127.0.0.1:${port}`, minWireVersion: 0, maxWireVersion: 21, maxBsonObjectSize: 16_777_216, maxMessageSizeBytes: 48_000_000, maxWriteBatchSize: 100_000, localTime: new Date(), ...more };
      case 'buildInfo': return { ok: 1, version: '7.0.5', ...more };
      case 'listDatabases': return { ok: 1, databases: [...new Set([...collections.keys()].map((key) => key.split('.')[0]!))].map((name) => ({ name })) };
      case 'listCollections': return cursor(`${database}.$cmd`, inDatabase(database).filter(([name]) => command['filter']?.name === undefined || command['filter'].name === name).map(([name, { options, uuid }]) => ({ name, type: options['viewOn'] === undefined ? 'collection' : 'view', options, info: { readOnly: false, uuid } })));
      case 'listIndexes': return here === undefined ? refusal(26) : cursor(ns, here.indexes);
      case 'find': {
        const wanted: unknown = command['filter']?.['_id'];
        const ids = wanted === undefined ? undefined : new Set(((wanted as { $in?: unknown[] }).$in ?? [wanted]).map((id) => JSON.stringify(id)));
        const found = (here?.documents ?? []).filter(({ _id }) => ids?.has(JSON.stringify(_id)) !== false);
        const snapshot = command['readConcern']?.level === 'snapshot';
        second += 1;
        return cursor(ns, found, snapshot ? { atClusterTime: command['readConcern'].atClusterTime ?? new Timestamp({ t: second, i: 1 }) } : {});
      }
      case 'insert': {
        const into = here ?? server.collection(ns);
        const writeErrors: Document[] = [];
        for (const [index, document] of (command['documents'] as Document[]).entries()) {
          if (into.documents.some(({ _id }) => JSON.stringify(_id) === JSON.stringify(document['_id']))) writeErrors.push({ index, code: 11000, errmsg: 'E11000 duplicate key' });
          else into.documents.push(document);
        }
        return { ok: 1, n: (command['documents'] as Document[]).length - writeErrors.length, ...(writeErrors.length === 0 ? {} : { writeErrors }) };
      }
      case 'create': {
        if (here !== undefined) return refusal(48);
        server.collection(ns, [], Object.fromEntries(Object.entries(command).filter(([key]) => ['capped', 'size', 'max', 'viewOn', 'pipeline'].includes(key))));
        return { ok: 1 };
      }
      case 'createIndexes': here?.indexes.push(...(command['indexes'] as Document[])); return { ok: 1 };
      case 'drop': return collections.delete(ns) ? { ok: 1 } : refusal(26);
      case 'dropDatabase': for (const [name] of inDatabase(database)) collections.delete(`${database}.${name}`); return { ok: 1 };
      case 'collStats': return { ok: 1, size: 1000 };
      case 'endSessions': case 'ping': return { ok: 1 };
      default: return refusal(59, `no such command: ${verb}`);
    }
  }

  const listener: Server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {}).on('close', () => sockets.delete(socket));
    let pending = Buffer.alloc(0);
    socket.on('data', (chunk: Buffer) => {
      pending = Buffer.concat([pending, chunk]);
      while (pending.length >= 16 && pending.length >= pending.readInt32LE(0)) {
        const message = pending.subarray(0, pending.readInt32LE(0));
        pending = pending.subarray(message.length);
        socket.write(reply(message, answer));
      }
    });
  });
  await new Promise<void>((resolve) => void listener.listen(0, '127.0.0.1', resolve));
  const { port } = listener.address() as { port: number };
  return Object.assign(server, { uri: `mongodb://127.0.0.1:${port}/?directConnection=true` });
}

const OP_QUERY = 2004;

function reply(message: Buffer, answer: (command: Document) => Document): Buffer {
  const query = message.readInt32LE(12) === OP_QUERY;
  const body = BSON.serialize(answer(query ? BSON.deserialize(message.subarray(message.indexOf(0, 20) + 9)) : commandOf(message)), { ignoreUndefined: true });
  const head = Buffer.alloc(query ? 36 : 21);
  head.writeInt32LE(head.length + body.length, 0);
  head.set(randomBytes(3), 4);
  head.writeInt32LE(message.readInt32LE(4), 8);
  head.writeInt32LE(query ? 1 : 2013, 12);
  if (query) head.writeInt32LE(1, 32);
  return Buffer.concat([head, body]);
}

/** OP_MSG: one body, and sequences of documents that belong to it. */
function commandOf(message: Buffer): Document {
  let command: Document = {};
  const sequences: Document = {};
  for (let at = 20; at < message.length; ) {
    const kind = message[at];
    const size = message.readInt32LE(at + 1);
    if (kind === 0) command = BSON.deserialize(message.subarray(at + 1, at + 1 + size), { promoteBuffers: false });
    else {
      const end = message.indexOf(0, at + 5);
      const documents: Document[] = [];
      for (let next = end + 1; next < at + 1 + size; next += message.readInt32LE(next)) documents.push(BSON.deserialize(message.subarray(next, next + message.readInt32LE(next))));
      sequences[message.subarray(at + 5, end).toString()] = documents;
    }
    at += 1 + size;
  }
  return { ...command, ...sequences };
}
