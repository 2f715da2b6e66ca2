import { createServer } from 'node:net';
import { HoldfastError } from '../model/errors.ts';

const handedOut = new Set<number>();

/** A free loopback port below the range that the kernel gives to outgoing connections, so that none of those takes it meanwhile. */
export async function freePort(): Promise<number> {
  for (let attempt = 0; attempt < 200; attempt += 1) {
    const port = 15_000 + Math.floor(Math.random() * 17_000);
    if (handedOut.has(port)) continue;
    const server = createServer();
    const free = await new Promise<boolean>((resolve) => {
      server.once('error', () => resolve(false));
      server.listen({ host: '127.0.0.1', port, exclusive: true }, () => server.close(() => resolve(true)));
    });
    if (!free) continue;
    handedOut.add(port);
    return port;
  }
  throw new HoldfastError('no-port', 'no free port between 15000 and 32000 was found on 127.0.0.1');
}
