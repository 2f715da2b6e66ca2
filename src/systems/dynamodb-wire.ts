import { crc32 } from 'node:zlib';
import { DynamoDBClient, type DynamoDBClientConfig } from '@aws-sdk/client-dynamodb';

/**
 * A client whose answers are the JSON that the service sent, and whose requests are the JSON they are given: numbers stay text, binary
 * stays base64. The SDK's own codec turns each attribute into an object of its own on the way, costs more than half of the time of a scan,
 * and loses an attribute named `__proto__`. The checksum that the service sends with each answer, which the SDK does not look at, is checked.
 *
 * Only for calls whose members hold no times and no blobs of the SDK's: Scan, Query, GetItem, PutItem, DeleteItem, BatchWriteItem, BatchGetItem, ExecuteStatement.
 */
export function createWireClient(config: DynamoDBClientConfig): DynamoDBClient {
  return onWire(new DynamoDBClient(config));
}

/** The same for another client of the protocol; times are seconds since 1970. */
export function onWire<C extends { readonly config: object }>(client: C): C {
  const { protocol } = client.config as { readonly protocol: WireProtocol };
  const serialize = protocol.serializeRequest.bind(protocol);
  const deserialize = protocol.deserializeResponse.bind(protocol);
  protocol.serializeRequest = async (operation, input, context) => {
    const request = await serialize(operation, {}, context);
    request.body = JSON.stringify(input);
    return request;
  };
  protocol.deserializeResponse = async (operation, context, response) => {
    if (response.statusCode >= 300) return deserialize(operation, context, response);
    const chunks: Buffer[] = [];
    for await (const chunk of response.body as AsyncIterable<Buffer>) chunks.push(chunk);
    const bytes = chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks);
    const wanted = Object.entries(response.headers).find(([name]) => name.toLowerCase() === 'x-amz-crc32')?.[1];
    // Like no answer at all, it may be asked for again (`isPassing`).
    if (wanted !== undefined && Number(wanted) !== crc32(bytes)) throw new DamagedAnswer(`the answer of ${bytes.length} bytes has the checksum ${crc32(bytes)}, the service announced ${wanted}`);
    let output: object;
    try {
      output = JSON.parse(bytes.toString('utf8')) as object;
    } catch (error) {
      throw new DamagedAnswer(`the answer of ${bytes.length} bytes is no JSON: ${(error as Error).message}`, { cause: error });
    }
    return { ...output, $metadata: { httpStatusCode: response.statusCode } };
  };
  return client;
}

class DamagedAnswer extends Error {
  override readonly name = 'DamagedAnswer';
}

interface WireProtocol {
  serializeRequest(operation: unknown, input: object, context: unknown): Promise<{ body?: unknown }>;
  deserializeResponse(operation: unknown, context: unknown, response: { readonly statusCode: number; readonly headers: Readonly<Record<string, string>>; readonly body: unknown }): Promise<unknown>;
}
