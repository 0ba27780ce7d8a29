// A certified OpenID provider on a free port of this machine, for `make oidc`: JWTs for programs (client credentials), and at
// POST /rotate a new signing key of another kind, beside the one before it. Says its address in one line.
import { createServer } from "node:http";
import Provider from "oidc-provider";
import { exportJWK, generateKeyPair } from "jose";

const KINDS = ["RS256", "ES256", "EdDSA"];
let keys = [];
let handle;

async function rotate(issuer) {
  const alg = KINDS[keys.length % KINDS.length];
  const { privateKey } = await generateKeyPair(alg, { extractable: true });
  const key = { ...(await exportJWK(privateKey)), alg, use: "sig", kid: `key-${keys.length}` };
  keys = [key, ...keys];
  const provider = new Provider(issuer, {
    // The newest signs; tokens of the one before it are still about.
    jwks: { keys: keys.slice(0, 2) },
    clients: [
      {
        client_id: "load",
        client_secret: "not-a-secret",
        grant_types: ["client_credentials"],
        redirect_uris: [],
        response_types: [],
        id_token_signed_response_alg: alg,
      },
    ],
    clientAuthMethods: ["client_secret_basic"],
    enabledJWA: { idTokenSigningAlgValues: KINDS },
    scopes: ["events"],
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => "urn:shop",
        getResourceServerInfo: () => ({
          scope: "events",
          audience: "shop",
          accessTokenTTL: 300,
          accessTokenFormat: "jwt",
          jwt: { sign: { alg } },
        }),
      },
    },
  });
  handle = provider.callback();
}

const server = createServer(async (request, response) => {
  if (request.url === "/rotate") {
    await rotate(issuer);
    response.end("ok");
  } else {
    handle(request, response);
  }
});
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
const issuer = `http://127.0.0.1:${server.address().port}`;
await rotate(issuer);
console.log(`issuer ${issuer}`);
