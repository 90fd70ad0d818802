//! Certificates and keys in PEM files.

use std::path::Path;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::reload::content;

/// The largest file: many times that of a system's list of authorities.
const MAX_BYTES: u64 = 4 << 20;

/// The certificates in a file, of which there is at least one. An error is the reason.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = content(path, MAX_BYTES)?;
    let found = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| error.to_string())?;
    if found.is_empty() { Err("no certificate in this file; expected PEM".to_owned()) } else { Ok(found) }
}

/// The key in a file. An error is the reason.
pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(&content(path, MAX_BYTES)?).map_err(|error| error.to_string())
}
