//! Credentials of a process: an nkey, or a JWT with one, from a file that is read at each connection, so that a key can be
//! replaced while the process runs.

use std::path::{Path, PathBuf};

use async_nats::{Auth, AuthError, ConnectOptions};
use nkeys::KeyPair;

/// Beginning of the seed of a user's nkey.
const USER_SEED: &str = "SU";
/// Line in front of the JWT in a `.creds` file.
const JWT_BEGINS: &str = "-----BEGIN NATS USER JWT-----";

/// Options of a process that proves at each connection that it has the key in `file`.
pub fn options(file: PathBuf) -> ConnectOptions {
    ConnectOptions::with_auth_callback(move |nonce| {
        let answer = answer(&file, &nonce).map_err(AuthError::new);
        async move { answer }
    })
}

/// Refuses a file that holds no credentials, with its path: a client that cannot answer is only told that it may not come in.
pub fn check(file: &Path) -> Result<(), String> {
    answer(file, &[]).map(|_| ())
}

/// Proof of holding the key, by signing what the server wants signed.
fn answer(file: &Path, nonce: &[u8]) -> Result<Auth, String> {
    let shown = file.display();
    let text = std::fs::read_to_string(file).map_err(|e| format!("cannot read {shown}: {e}"))?;
    let mut lines = text.lines().map(str::trim);
    let seed = lines.clone().find(|line| line.starts_with(USER_SEED));
    let key = seed.and_then(|seed| KeyPair::from_seed(seed).ok());
    let key = key.ok_or_else(|| {
        format!(
            "{shown} holds neither the seed of a user's nkey (SU...) nor a JWT with one (.creds)"
        )
    })?;
    let jwt = lines
        .any(|line| line == JWT_BEGINS)
        .then(|| lines.next().unwrap_or_default());
    let signature = key.sign(nonce).map_err(|e| format!("{shown}: {e}"))?;
    let mut auth = Auth::new();
    auth.signature = Some(signature);
    match jwt {
        Some(jwt) => auth.jwt = Some(jwt.to_owned()),
        None => auth.nkey = Some(key.public_key()),
    }
    Ok(auth)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("oncue-{name}-{}", std::process::id()));
        std::fs::write(&path, text).expect("a file");
        path
    }

    #[test]
    fn a_seed_and_a_jwt_are_told_apart_and_neither_is_refused_with_the_path() {
        let key = KeyPair::new_user();
        let seed = key.seed().expect("a seed");
        let path = file("seed", &format!("{seed}\n"));
        let auth = answer(&path, b"nonce").expect("an answer");
        assert_eq!(auth.nkey, Some(key.public_key()));
        assert!(auth.jwt.is_none());
        let signature = auth.signature.expect("signed");
        key.verify(b"nonce", &signature).expect("by this key");
        let creds = format!(
            "{JWT_BEGINS}\nabc.def\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n{seed}\n"
        );
        let path = file("creds", &creds);
        let auth = answer(&path, b"nonce").expect("an answer");
        assert_eq!((auth.jwt.as_deref(), auth.nkey), (Some("abc.def"), None));
        for text in ["", "SUNOTASEED", "hello"] {
            let path = file("none", text);
            let why = check(&path).expect_err("no credentials");
            assert!(why.contains(&path.display().to_string()), "{why}");
        }
        assert!(check(Path::new("/nowhere/x.nk")).is_err());
    }
}
