// Which requests are for the homeserver. Decided synchronously and by the URL alone, because a
// fetch listener must say at once whether it answers.

const paths = ['_matrix/', '.well-known/matrix/'];

/**
 * Whether `url` is one that the homeserver of `scope` (the service worker's scope, an absolute URL
 * ending in `/`) answers.
 */
export function isMatrix(url: string, scope: string): boolean {
  return matrixPath(url, scope) !== undefined;
}

/**
 * The path and query that the homeserver sees for `url`, without the scope's path; `undefined` when
 * the request is not for it.
 */
export function matrixPath(url: string, scope: string): string | undefined {
  if (!URL.canParse(url)) return undefined;
  const { protocol, origin, hostname, pathname, search } = new URL(url);
  if (protocol !== 'https:' && protocol !== 'http:') return undefined;
  if (serverLabel(hostname) !== undefined) return pathname + search;
  const home = new URL(scope);
  if (origin !== home.origin) return undefined;
  for (const base of ['/', home.pathname]) {
    if (!pathname.startsWith(base)) continue;
    const rest = pathname.slice(base.length);
    if (paths.some((path) => rest.startsWith(path))) return `/${rest}${search}`;
  }
  return undefined;
}

/**
 * Whether a path of the homeserver is one of files: their bodies are large, and pass through as
 * they come.
 */
export function isMedia(path: string): boolean {
  return /^\/_matrix\/(media|client\/[^/]+\/media)\//.test(path);
}

/** The first label of `hostname` when it is the name of a node, else `undefined`. */
export function serverLabel(hostname: string): string | undefined {
  const label = hostname.split('.', 1)[0] ?? '';
  return isServerLabel(label) ? label : undefined;
}

// The bytes before the 32 of the key: CID version 1, codec libp2p-key (0x72), identity multihash of
// 36 bytes, and in it the protobuf of a public key: type ed25519 (08 01), 32 bytes of data (12 20).
const keyPrefix = 0x0172_0024_0801_1220n;

/**
 * Whether `label` is a CIDv1 of an ed25519 libp2p key in multibase base36, in its one canonical
 * spelling: 62 characters, lower case.
 */
export function isServerLabel(label: string): boolean {
  if (!/^k[1-9a-z][0-9a-z]{60}$/.test(label)) return false;
  let value = 0n;
  for (const digit of label.slice(1)) value = value * 36n + BigInt(Number.parseInt(digit, 36));
  return value >> 256n === keyPrefix;
}
