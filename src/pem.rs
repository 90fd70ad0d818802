//! Certificates and keys in PEM files.

use std::path::{Path, PathBuf};

use rustls_pki_types::pem::{Error, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, RootCertStore};

use crate::plain_file;

/// The largest file: many times that of a system's list of authorities.
pub(crate) const MAX_BYTES: u64 = 4 << 20;

fn content(path: &Path) -> Result<Vec<u8>, String> {
    plain_file::read(path, MAX_BYTES).map_err(|error| error.to_string())
}

/// The certificates in a file, of which there is at least one. An error is the reason.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    certificates_in(&content(path)?)
}

/// The certificates in the text of a file, of which there is at least one.
pub(crate) fn certificates_in(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>().map_err(reason)?;
    if found.is_empty() { Err("no certificate in this file; expected PEM".to_owned()) } else { Ok(found) }
}

/// The authorities in a file.
pub(crate) fn authorities(path: &Path) -> Result<RootCertStore, String> {
    authorities_in(&content(path)?)
}

/// The authorities in the text of a file.
pub(crate) fn authorities_in(text: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for (number, certificate) in (1..).zip(certificates_in(text)?) {
        // What the library says is about a peer's certificate.
        roots.add(certificate).map_err(|_| format!("certificate {number} in this file is broken; expected X.509"))?;
    }
    Ok(roots)
}

/// A certificate with its key. An error is about the certificate: a key that is none is refused when it is read.
pub(crate) fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, String> {
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => "this certificate is not that of the key".to_owned(),
        rustls::Error::InvalidCertificate(_) => {
            "the first certificate in this file is broken; expected X.509".to_owned()
        }
        error => error.to_string(),
    })
}

/// The key in a file. An error is the reason.
pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    private_key_in(&content(path)?)
}

/// The key in the text of a file.
pub(crate) fn private_key_in(text: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    let key = PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        Error::NoItemsFound => "no key in this file; expected PEM".to_owned(),
        error => reason(error),
    })?;
    match ring::sign::any_supported_type(&key) {
        Ok(_) => Ok(key),
        Err(_) => {
            Err("the key in this file is broken; expected one of RSA, ECDSA (P-256, P-384) or Ed25519".to_owned())
        }
    }
}

/// The path of a file as an error names it. Where the text of the file was given instead, it may be a key.
pub(crate) fn shown(path: &Path) -> PathBuf {
    match path.to_string_lossy().contains("-----BEGIN ") {
        true => PathBuf::from("(the text of a PEM file was given instead of its path)"),
        false => path.to_owned(),
    }
}

/// What is wrong, without the lines of the file that the error quotes: they may be those of a key.
fn reason(error: Error) -> String {
    let reason = match error {
        Error::MissingSectionEnd { .. } => "a section in this file has no END line of its own; expected PEM",
        Error::IllegalSectionStart { .. } => "a BEGIN line in this file is malformed; expected PEM",
        Error::Base64Decode(_) => "a section in this file is not base64; expected PEM",
        Error::SectionTooLarge => "a section in this file is too large; expected PEM",
        _ => "this file cannot be read as PEM",
    };
    reason.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_looks_like_certificates_is_refused_by_their_place() {
        let made = |name: &str| {
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
            (params.self_signed(&key).unwrap(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        };
        let ((one, key), (other, _)) = (made("one.test"), made("other.test"));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(authorities_in((one.pem() + &other.pem()).as_bytes()).unwrap().len(), 2);
        let error = authorities_in((one.pem() + broken).as_bytes()).unwrap_err();
        assert_eq!(error, "certificate 2 in this file is broken; expected X.509");
        let of = |text: &str| certified(certificates_in(text.as_bytes()).unwrap(), key.clone_key()).map(drop);
        of(&one.pem()).unwrap();
        assert_eq!(of(&other.pem()).unwrap_err(), "this certificate is not that of the key");
        assert_eq!(of(broken).unwrap_err(), "the first certificate in this file is broken; expected X.509");
    }

    #[test]
    fn an_error_quotes_nothing_of_a_key() {
        const SECRET: &str = "c2VjcmV0";
        let bytes = format!("{:?}", SECRET.as_bytes());
        let bytes = bytes.trim_matches(['[', ']']);
        for (text, expected) in [
            (format!("-----BEGIN PRIVATE KEY-----\\n{SECRET}\\n-----END PRIVATE KEY-----\n"), "END line"),
            (format!("-----BEGIN PRIVATE KEY-----\\n{SECRET}\n"), "BEGIN line"),
            (format!("-----BEGIN {SECRET}-----\nAAAA\n"), "END line"),
            (format!("-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END {SECRET}-----\n"), "END line"),
            (format!("-----BEGIN PRIVATE KEY-----\n{SECRET}*\n-----END PRIVATE KEY-----\n"), "base64"),
            (SECRET.to_owned(), "no key"),
            (
                format!("-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n"),
                "key in this file is broken",
            ),
        ] {
            let error = private_key_in(text.as_bytes()).unwrap_err();
            assert!(error.contains(expected) && !error.contains(SECRET) && !error.contains(bytes), "{text}: {error}");
        }
        assert!(certificates_in(b"").unwrap_err().contains("no certificate"));
        let given = shown(Path::new(&format!("-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n")));
        assert!(!given.display().to_string().contains(SECRET), "{}", given.display());
        assert_eq!(shown(Path::new("/a/key.pem")), Path::new("/a/key.pem"));
    }
}
