//! Certificates and keys in PEM files.

use std::path::{Path, PathBuf};

use rustls_pki_types::pem::{Error, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::reload::content;

/// The largest file: many times that of a system's list of authorities.
pub(crate) const MAX_BYTES: u64 = 4 << 20;

/// The certificates in a file, of which there is at least one. An error is the reason.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    certificates_in(&content(path, MAX_BYTES)?)
}

/// The certificates in the text of a file, of which there is at least one.
pub(crate) fn certificates_in(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>().map_err(reason)?;
    if found.is_empty() { Err("no certificate in this file; expected PEM".to_owned()) } else { Ok(found) }
}

/// The key in a file. An error is the reason.
pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    private_key_in(&content(path, MAX_BYTES)?)
}

/// The key in the text of a file.
pub(crate) fn private_key_in(text: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        Error::NoItemsFound => "no key in this file; expected PEM".to_owned(),
        error => reason(error),
    })
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
