import { Resolver } from 'node:dns/promises';

/** What a name server answers for a name; empty when it has nothing. @throws the resolver's own error when it does not answer. */
export async function dnsAnswer(server: string, name: string, type: string): Promise<string[]> {
  const resolver = new Resolver({ timeout: 2000, tries: 2 });
  resolver.setServers([server]);
  try {
    switch (type) {
      case 'A':
        return await resolver.resolve4(name);
      case 'AAAA':
        return await resolver.resolve6(name);
      case 'CNAME':
        return await resolver.resolveCname(name);
      case 'TXT':
        return (await resolver.resolveTxt(name)).map((parts) => parts.join(''));
      default:
        throw new Error(`answers of type ${type} are not looked at`);
    }
  } catch (error) {
    const { code } = error as { code?: string };
    if (code === 'ENODATA' || code === 'ENOTFOUND') return [];
    throw error;
  } finally {
    resolver.cancel();
  }
}
