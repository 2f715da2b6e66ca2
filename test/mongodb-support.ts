import { connect, createServer, type Server, type Socket } from 'node:net';
import { BSON, Binary, BSONRegExp, Code, DBRef, Decimal128, Double, Int32, Long, MaxKey, MinKey, ObjectId, Timestamp, type Document, type MongoClient } from 'mongodb';
import type { FerretServer } from '../src/local/stack.ts';
import type { MongodbTarget } from '../src/systems/mongodb.ts';
import { withMongodb } from '../src/systems/mongodb.ts';
import { insertRaw, rawDocuments } from '../src/systems/mongodb-raw.ts';

export function targetOf(server: { readonly uri: string }): MongodbTarget {
  return { what: 'MongoDB test', uri: server.uri };
}

export function onServer<T>(server: { readonly uri: string }, work: (client: MongoClient) => Promise<T>): Promise<T> {
  return withMongodb(targetOf(server), work);
}

export async function insertDocuments(server: { readonly uri: string }, database: string, collection: string, documents: readonly (Document | Uint8Array)[]): Promise<void> {
  await onServer(server, async (client) => {
    for (let at = 0; at < documents.length; at += 1000) {
      const batch = documents.slice(at, at + 1000).map((document) => (document instanceof Uint8Array ? document : BSON.serialize(document)));
      const answer = await insertRaw(client.db(database), collection, batch, { ordered: true, writeConcern: 1, writeConcernTimeoutMs: 1000, keepEmptyTimestamps: false });
      if (answer.errors.length > 0) throw new Error(answer.errors[0]!.message);
    }
  });
}

/** Every document of a collection as hex, in the server's order. */
export function documentsOf(server: { readonly uri: string }, database: string, collection: string): Promise<string[]> {
  return onServer(server, async (client) => (await rawDocuments(client.db(database), { find: collection, filter: {}, batchSize: 1000 })).map((document) => document.toString('hex')));
}

/** A shop of two databases: `orders` with indexes, an empty collection, a capped one and one whose name needs escaping. */
export async function fillShop(server: FerretServer, orders = 2500): Promise<void> {
  await onServer(server, async (client) => {
    const shop = client.db('shop');
    await shop.command({ create: 'orders' });
    await shop.command({ createIndexes: 'orders', indexes: [{ key: { customer: 1, at: -1 }, name: 'customer_at' }, { key: { number: 1 }, name: 'number', unique: true }] });
    await shop.command({ create: 'empty' });
    await shop.command({ create: 'recent', capped: true, size: 1_000_000, max: 1000 });
    await client.db('stock').command({ create: 'per place' });
  });
  await insertDocuments(server, 'shop', 'orders', Array.from({ length: orders }, (_, index) => orderDocument(index)));
  // Neither by _id nor by size: a capped collection is its order.
  await insertDocuments(server, 'shop', 'recent', Array.from({ length: 300 }, (_, index) => ({ _id: (index * 7919) % 300, text: 'r'.repeat(index % 50) })));
  await insertDocuments(server, 'stock', 'per place', Array.from({ length: 40 }, (_, index) => ({ _id: `place ${index}`, b: index, '10': 'x', '2': 'y' })));
}

export function orderDocument(index: number): Document {
  return { _id: index, number: `N-${index}`, customer: index % 97, at: new Date(1_700_000_000_000 + index * 1000), lines: [{ sku: `s${index % 13}`, count: index % 5 }], note: 'n'.repeat(index % 200) };
}

export interface WireProxy {
  readonly uri: string;
  /** All that clients sent. */
  sent(): Buffer;
  /** The answers to the next so many requests that contain the text reach the server's side only: then the client's connection is cut. */
  loseAnswers(to: string, times: number): void;
  /** How many answers were lost. */
  lost(): number;
  close(): Promise<void>;
}

/** Between a client and a server: keeps what is sent, and loses answers on request, which no other fault does exactly. */
export async function wireProxy(port: number): Promise<WireProxy> {
  const sent: Buffer[] = [];
  const sockets = new Set<Socket>();
  let [wanted, left, lost] = ['', 0, 0];
  const proxy: Server = createServer((client) => {
    const server = connect({ host: '127.0.0.1', port });
    let losing = false;
    for (const socket of [client, server]) {
      sockets.add(socket);
      socket.on('error', () => {}).on('close', () => {
        sockets.delete(socket);
        client.destroy();
        server.destroy();
      });
    }
    client.on('data', (chunk: Buffer) => {
      sent.push(chunk);
      if (left > 0 && chunk.includes(wanted)) {
        left -= 1;
        losing = true;
      }
      server.write(chunk);
    });
    server.on('data', (chunk: Buffer) => {
      if (!losing) return void client.write(chunk);
      lost += 1;
      client.destroy();
    });
  });
  await new Promise<void>((resolve) => void proxy.listen(0, '127.0.0.1', resolve));
  const address = proxy.address() as { port: number };
  return {
    uri: `mongodb://127.0.0.1:${address.port}/?directConnection=true`,
    sent: () => Buffer.concat(sent),
    loseAnswers(to, times) {
      [wanted, left] = [to, times];
    },
    lost: () => lost,
    async close() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => void proxy.close(resolve));
    },
  };
}

/** One of each type, also those that servers only keep from earlier days; made by hand where the library cannot. */
export function everyType(): Buffer {
  const library = BSON.serialize(new Map<string, unknown>([
    ['_id', new ObjectId('656565656565656565656565')], ['double', new Double(1.5)], ['negativeZero', new Double(-0)], ['string', 'é'], ['document', new Map([['b', 1], ['10', 2], ['2', 3]])], ['array', [1, 'x', null]],
    ['binary', new Binary(Buffer.from([1, 2, 3]), 5)], ['true', true], ['date', new Date(-1)], ['null', null], ['regex', new BSONRegExp('a/b', 'im')], ['dbref', new DBRef('c', new ObjectId('656565656565656565656565'))],
    ['code', new Code('f()')], ['scoped', new Code('f()', { a: 1 })], ['int', new Int32(-1)], ['timestamp', new Timestamp({ t: 1, i: 2 })], ['long', Long.fromString('9007199254740993')],
    ['decimal', Decimal128.fromString('1.50')], ['min', new MinKey()], ['max', new MaxKey()], ['', 'empty'],
  ]));
  const byHand = Buffer.concat([
    Buffer.from('\x06undefined\0', 'latin1'), Buffer.from('\x0esymbol\0\x02\0\0\0s\0', 'latin1'), Buffer.from('\x0cpointer\0\x02\0\0\0c\0', 'latin1'), Buffer.alloc(12, 7), Buffer.from('\x10twice\0\x01\0\0\0\x10twice\0\x02\0\0\0', 'latin1'), Buffer.from([0]),
  ]);
  const all = Buffer.concat([library.subarray(0, -1), byHand]);
  all.writeInt32LE(all.length, 0);
  return all;
}
