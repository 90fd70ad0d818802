//! Content digests, parsed before anything is built from them.

use std::fmt;
use std::str::FromStr;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
#[cfg(feature = "object")]
use sha2::digest::common::hazmat::{SerializableState, SerializedState};
use sha2::{Digest as _, Sha256, Sha512};

/// A digest algorithm of the OCI image specification (descriptor.md, "Registered algorithms").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, 64 hex characters.
    Sha256,
    /// SHA-512, 128 hex characters.
    Sha512,
}

impl Algorithm {
    /// The name in front of the colon.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// How many hex characters follow the colon.
    pub fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// A digest such as `sha256:9f86d0…`, right in form: safe to build a path, a label or a URL from.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    text: Box<str>,
}

impl Digest {
    /// The digest of `bytes` by `algorithm`.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// The SHA-256 digest of `bytes`.
    pub fn sha256(bytes: &[u8]) -> Self {
        Self::of(Algorithm::Sha256, bytes)
    }

    /// Whether these are the bytes that the digest names.
    pub fn verify(&self, bytes: &[u8]) -> bool {
        Self::of(self.algorithm, bytes) == *self
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The part after the colon, lower-case hex.
    pub fn hex(&self) -> &str {
        &self.text[self.algorithm.name().len() + 1..]
    }

    /// The first twelve hex characters, as docker shows ids.
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }

    /// The whole digest, `algorithm:hex`.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a digest: expected {expected}")]
pub struct DigestError {
    /// The text, cut to 80 characters.
    pub text: String,
    /// What was expected in its place.
    pub expected: &'static str,
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let error = |expected| DigestError { text: text.chars().take(80).collect(), expected };
        let (name, hex) = text.split_once(':').ok_or_else(|| error("`sha256:` or `sha512:` and hex"))?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => return Err(error("the algorithm `sha256` or `sha512`")),
        };
        if hex.len() != algorithm.hex_len() || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(error("64 (sha256) or 128 (sha512) lower-case hex characters"));
        }
        Ok(Self { algorithm, text: text.into() })
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Digest;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a digest")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Digest, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Text)
    }
}

/// Whose states of hashers these are: only the same implementation reads them (RustCrypto's `SerializableState`).
#[cfg(feature = "object")]
const STATE: &str = "sha2-0.11";

#[cfg(feature = "object")]
fn deserialized<H: SerializableState>(state: &[u8]) -> Option<H> {
    H::deserialize(SerializedState::<H>::try_from(state).ok().as_ref()?).ok()
}

/// Hashes a stream of bytes. The one place that chooses the implementation.
#[derive(Debug, Clone)]
pub struct Hasher(Inner);

#[derive(Debug, Clone)]
enum Inner {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    /// A hasher that has seen nothing yet.
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => Inner::Sha256(Sha256::new()),
            Algorithm::Sha512 => Inner::Sha512(Sha512::new()),
        })
    }

    /// Takes in the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Inner::Sha256(hasher) => hasher.update(bytes),
            Inner::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        match self.0 {
            Inner::Sha256(_) => Algorithm::Sha256,
            Inner::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// What was taken in, for [`Hasher::restore`], which may be another process's. It holds some of the last bytes.
    #[cfg(feature = "object")]
    pub(crate) fn state(&self) -> String {
        let (algorithm, state) = match &self.0 {
            Inner::Sha256(hasher) => (Algorithm::Sha256, hex::encode(hasher.serialize())),
            Inner::Sha512(hasher) => (Algorithm::Sha512, hex::encode(hasher.serialize())),
        };
        format!("{STATE}:{}:{state}", algorithm.name())
    }

    /// The hasher whose state that is; `None` if it is none, or one of another implementation.
    #[cfg(feature = "object")]
    pub(crate) fn restore(state: &str) -> Option<Self> {
        let (algorithm, state) = state.strip_prefix(STATE)?.strip_prefix(':')?.split_once(':')?;
        let state = hex::decode(state).ok()?;
        Some(Self(match algorithm {
            "sha256" => Inner::Sha256(deserialized(&state)?),
            "sha512" => Inner::Sha512(deserialized(&state)?),
            _ => return None,
        }))
    }

    /// The digest of all that was taken in.
    pub fn finish(self) -> Digest {
        let (algorithm, hex) = match self.0 {
            Inner::Sha256(hasher) => (Algorithm::Sha256, hex::encode(hasher.finalize())),
            Inner::Sha512(hasher) => (Algorithm::Sha512, hex::encode(hasher.finalize())),
        };
        Digest { algorithm, text: format!("{}:{hex}", algorithm.name()).into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // FIPS 180-2, the digests of the empty message.
    const EMPTY_256: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const EMPTY_512: &str = "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce\
                             47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e";

    #[test]
    fn computes_known_digests() {
        assert_eq!(Digest::sha256(b"").as_str(), EMPTY_256);
        assert_eq!(Digest::of(Algorithm::Sha512, b"").as_str(), EMPTY_512);
        let digest: Digest = EMPTY_256.parse().unwrap();
        assert_eq!((digest.short(), digest.hex().len()), ("e3b0c44298fc", 64));
    }

    #[test]
    fn verifies_with_its_own_algorithm() {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let digest = Digest::of(algorithm, b"layer");
            assert!(digest.verify(b"layer"));
            assert!(!digest.verify(b"Layer"));
        }
    }

    #[test]
    fn hashes_streams_in_any_pieces() {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        for piece in [b"la".as_slice(), b"", b"yer"] {
            hasher.update(piece);
        }
        assert_eq!(hasher.finish(), Digest::sha256(b"layer"));
    }

    #[cfg(feature = "object")]
    #[test]
    fn hashing_goes_on_in_another_process() {
        let bytes: Vec<u8> = (0..1000_u32).map(|at| (at % 251) as u8).collect();
        for (algorithm, at) in [(Algorithm::Sha256, 0), (Algorithm::Sha256, 64), (Algorithm::Sha512, 777)] {
            let mut hasher = Hasher::new(algorithm);
            hasher.update(&bytes[..at]);
            let mut restored = Hasher::restore(&hasher.state()).unwrap();
            assert_eq!(restored.algorithm(), algorithm);
            restored.update(&bytes[at..]);
            assert_eq!(restored.finish(), Digest::of(algorithm, &bytes));
        }
        let state = Hasher::new(Algorithm::Sha256).state();
        for wrong in ["", "sha256", &state[1..], &state[..state.len() - 2], &state.replace("0.11", "0.12")] {
            assert!(Hasher::restore(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn refuses_what_is_no_digest() {
        let hex = &EMPTY_256["sha256:".len()..];
        for (text, expected) in [
            (String::new(), "`sha256:` or"),
            (hex.to_owned(), "`sha256:` or"),
            (format!("md5:{}", &hex[..32]), "algorithm"),
            (format!("SHA256:{hex}"), "algorithm"),
            (format!(" sha256:{hex}"), "algorithm"),
            (format!("sha256:{}", hex.to_uppercase()), "lower-case hex"),
            (format!("sha256:{}", &hex[1..]), "64"),
            (format!("sha256:{hex}0"), "64"),
            (format!("sha256:{hex}\n"), "64"),
            (format!("sha512:{hex}"), "128"),
            ("sha256:../../../../../../../../../../../../../../../../../etc/passwd00".into(), "lower-case hex"),
            (format!("sha256:{}g", &hex[1..]), "lower-case hex"),
            (format!("sha256:{}é", &hex[2..]), "lower-case hex"),
        ] {
            let error = text.parse::<Digest>().unwrap_err();
            assert!(error.expected.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn cuts_long_texts_in_errors() {
        assert_eq!("é".repeat(1000).parse::<Digest>().unwrap_err().text.chars().count(), 80);
    }

    #[test]
    fn is_a_string_in_json() {
        let digest: Digest = serde_json::from_str(&format!("\"{EMPTY_256}\"")).unwrap();
        assert_eq!(serde_json::to_string(&digest).unwrap(), format!("\"{EMPTY_256}\""));
        for json in ["1", "null", "\"sha256:\""] {
            assert!(serde_json::from_str::<Digest>(json).is_err(), "{json}");
        }
    }
}
