//! Signatures after [Standard Webhooks 1.0.0, Signature scheme]: HMAC-SHA256 over `id.timestamp.body`, one for each
//! secret, so that a receiver may change from the old to the new one whenever it likes.

use base64::Engine as _;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use ring::hmac;

const PREFIX: &str = "whsec_";
/// [Standard Webhooks 1.0.0, Signature scheme]: 192 to 512 bits.
const LENGTHS: std::ops::RangeInclusive<usize> = 24..=64;
/// Secrets are copied by hand, and their padding gets lost.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &ALPHABET,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The secrets, ready for use. Not `Debug`, and with no way to get them out.
pub struct Signer {
    keys: Vec<hmac::Key>,
}

impl Signer {
    /// Reads secrets separated by white space, newest first. Mistakes name a secret by its place, never by its text.
    pub fn parse(text: &str) -> Result<Self, Vec<String>> {
        let mut keys = Vec::new();
        let mut mistakes = Vec::new();
        for (at, secret) in text.split_whitespace().enumerate() {
            match key(secret) {
                Ok(key) => keys.push(key),
                Err(mistake) => mistakes.push(format!("secret number {} {mistake}", at + 1)),
            }
        }
        if mistakes.is_empty() {
            Ok(Self { keys })
        } else {
            Err(mistakes)
        }
    }

    /// Value of the header `webhook-signature`: one signature for each secret, separated by spaces.
    pub fn sign(&self, id: &str, timestamp: u64, body: &str) -> String {
        let content = format!("{id}.{timestamp}.{body}");
        let signatures: Vec<String> = self
            .keys
            .iter()
            .map(|key| hmac::sign(key, content.as_bytes()))
            .map(|signature| format!("v1,{}", STANDARD.encode(signature)))
            .collect();
        signatures.join(" ")
    }
}

fn key(secret: &str) -> Result<hmac::Key, String> {
    let Some(encoded) = secret.strip_prefix(PREFIX) else {
        return Err(format!(
            "does not begin with {PREFIX:?}: write {PREFIX} and 24 to 64 random bytes in base64"
        ));
    };
    // The decoder's own error would quote a character.
    let bytes = LENIENT
        .decode(encoded)
        .map_err(|_| format!("is not base64 after {PREFIX:?}"))?;
    if !LENGTHS.contains(&bytes.len()) {
        return Err(format!(
            "has {} bytes, and must have {} to {}",
            bytes.len(),
            LENGTHS.start(),
            LENGTHS.end()
        ));
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const EXPECTED: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn sign(secrets: &str) -> String {
        let signer = Signer::parse(secrets).unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
        signer.sign(
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
        )
    }

    /// The vector published with Standard Webhooks.
    #[test]
    fn the_published_vector_is_signed_as_published() {
        assert_eq!(sign(SECRET), EXPECTED);
    }

    #[test]
    fn each_secret_gives_a_signature() {
        let other = format!("whsec_{}", STANDARD.encode([7; 32]));
        let both = sign(&format!("{other}  {SECRET}"));
        assert_eq!(both, format!("{} {EXPECTED}", sign(&other)));
        assert_eq!(
            sign(other.trim_end_matches('=')),
            sign(&other),
            "padding may be left out"
        );
    }

    #[test]
    fn bad_secrets_are_named_by_place_alone() {
        let short = format!("whsec_{}", STANDARD.encode([7; 23]));
        let long = format!("whsec_{}", STANDARD.encode([7; 65]));
        let text = format!("{SECRET} plainsecret whsec_%%%% {short} {long} whsec_");
        let mistakes = Signer::parse(&text).err().expect("mistakes");
        for (number, mistake) in (2..=6).zip(&mistakes) {
            assert!(
                mistake.starts_with(&format!("secret number {number} ")),
                "{mistake}"
            );
        }
        assert_eq!(mistakes.len(), 5);
        let told = mistakes.join("\n");
        for hidden in ["plainsecret", "%%", "BwcH", "MfKQ"] {
            assert!(!told.contains(hidden), "{told}");
        }
    }
}
