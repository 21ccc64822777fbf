// An OpenID provider for the tests: npm `oidc-provider` as it is, on a free port of the loopback. It issues JWT access
// tokens for the audience `veribus` by client credentials. What we add is a door for the test:
//
//   POST /test/rotate    a new key signs; the old ones stay in the key set
//   POST /test/withdraw  only the newest key stays in the key set
//
// Prints `ready ISSUER` once it listens, and ends with its standard input.

import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { createServer } from 'node:http';

import Provider from 'oidc-provider';

const algorithm = process.argv[2] ?? 'ES256';
const kinds = {
  ES256: ['ec', { namedCurve: 'P-256' }],
  EdDSA: ['ed25519', {}],
  RS256: ['rsa', { modulusLength: 2048 }],
};

function newKey() {
  const [kind, options] = kinds[algorithm];
  const { privateKey } = generateKeyPairSync(kind, options);
  return { ...privateKey.export({ format: 'jwk' }), kid: randomUUID(), use: 'sig', alg: algorithm };
}

function provider(issuer, keys) {
  return new Provider(issuer, {
    jwks: { keys },
    clients: [
      {
        client_id: 'finance-agent',
        client_secret: 'a secret of the tests',
        grant_types: ['client_credentials'],
        token_endpoint_auth_method: 'client_secret_post',
        redirect_uris: [],
        response_types: [],
        id_token_signed_response_alg: algorithm,
      },
    ],
    enabledJWA: { idTokenSigningAlgValues: [algorithm] },
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => 'urn:veribus',
        getResourceServerInfo: () => ({
          scope: 'publish:finance.> subscribe:finance.>',
          audience: 'veribus',
          accessTokenFormat: 'jwt',
          accessTokenTTL: 300,
          jwt: { sign: { alg: algorithm, kid: keys[0].kid } },
        }),
      },
    },
  });
}

let keys = [newKey()];
let handle;

const server = createServer((request, response) => {
  if (request.method === 'POST' && request.url.startsWith('/test/')) {
    keys = request.url === '/test/rotate' ? [newKey(), ...keys] : [keys[0]];
    handle = provider(issuer(), keys).callback();
    response.end();
  } else {
    handle(request, response);
  }
});

const issuer = () => `http://127.0.0.1:${server.address().port}`;

server.listen(0, '127.0.0.1', () => {
  handle = provider(issuer(), keys).callback();
  console.log(`ready ${issuer()}`);
});
process.stdin.resume().on('end', () => process.exit(0));
