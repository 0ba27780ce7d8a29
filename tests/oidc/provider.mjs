// A certified OpenID provider on a free port of this machine, for `make oidc`: JWTs for programs (client credentials), and at
// POST /rotate a new signing key of another kind, beside the one before it. People log in without being asked, as who the query of
// /as?NAME said last; a client `console` with PKCE may send them. Says its address in one line.
import { createServer } from "node:http";
import Provider from "oidc-provider";
import { exportJWK, generateKeyPair } from "jose";

const KINDS = ["RS256", "ES256", "EdDSA"];
let keys = [];
let handle;
let person = "ann";
let current;

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
      {
        client_id: "console",
        client_secret: "not-a-secret",
        redirect_uris: ["http://127.0.0.1:1/api/login/back"],
        id_token_signed_response_alg: alg,
      },
    ],
    // What belongs to a scope is told apart from the ID token, as the standard has it.
    claims: { openid: ["sub"], profile: ["preferred_username", "groups"] },
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, preferred_username: id, groups: [`team-${id}`] }) }),
    interactions: { url: (_, { uid }) => `/interaction/${uid}` },
    cookies: { keys: ["only-for-tests"] },
    clientAuthMethods: ["client_secret_basic"],
    enabledJWA: { idTokenSigningAlgValues: KINDS },
    scopes: ["events", "profile", "email"],
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        // An access token for one resource opens no userinfo.
        defaultResource: (context) => (context.oidc.client?.clientId === "console" ? undefined : "urn:shop"),
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
  current = provider;
  handle = provider.callback();
}

// In place of a form: somebody logs in, and lets the client know what it asks for.
async function interact(request, response) {
  const { prompt, params, session } = await current.interactionDetails(request, response);
  if (prompt.name === "login") return current.interactionFinished(request, response, { login: { accountId: person } });
  const grant = new current.Grant({ accountId: session.accountId, clientId: params.client_id });
  grant.addOIDCScope("openid profile email");
  await current.interactionFinished(request, response, { consent: { grantId: await grant.save() } });
}

const server = createServer(async (request, response) => {
  if (request.url === "/rotate") {
    await rotate(issuer);
    response.end("ok");
  } else if (request.url.startsWith("/as?")) {
    person = request.url.slice(4);
    response.end("ok");
  } else if (request.url.startsWith("/interaction/")) {
    await interact(request, response);
  } else {
    handle(request, response);
  }
});
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
const issuer = `http://127.0.0.1:${server.address().port}`;
await rotate(issuer);
console.log(`issuer ${issuer}`);
