//! What is wrong with a listener's certificate that can be served all the same: clients then refuse it, and the server learns
//! nothing but that they have closed the connection.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Why clients will refuse a certificate.
pub(super) fn of_certificate(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate.as_ref()) else {
        return vec!["it cannot be read".to_owned()];
    };
    let mut doubts = Vec::new();
    if !parsed.validity().is_valid() {
        let (from, until) = (parsed.validity().not_before, parsed.validity().not_after);
        doubts.push(format!("it is valid from {from} until {until}, and not now"));
    }
    let names = parsed.subject_alternative_name().ok().flatten();
    let is_host = |name: &GeneralName<'_>| matches!(name, GeneralName::DNSName(_) | GeneralName::IPAddress(_));
    if !names.is_some_and(|names| names.value.general_names.iter().any(is_host)) {
        doubts.push(
            "it has no host name or IP address among its alternative names, where clients look for it".to_owned(),
        );
    }
    let usage = parsed.extended_key_usage().ok().flatten();
    if usage.is_some_and(|usage| !usage.value.any && !usage.value.server_auth) {
        doubts.push("its extended key usage is not that of servers".to_owned());
    }
    doubts
}

/// What is wrong with who can read a key; `None` if only its owner and its group can.
pub(super) fn of_key(path: &Path) -> Option<String> {
    let mode = path.metadata().ok().map(|found: Metadata| found.mode())?;
    (mode & 0o007 != 0).then(|| {
        let path = path.display();
        format!(
            "{path} has a private key, and everybody may use it: its mode is {:o}; hint: chmod 600 {path}",
            mode & 0o777
        )
    })
}

/// What is wrong with who can write to a folder that has a key; `None` if not everybody can.
pub(super) fn of_folder(path: &Path) -> Option<String> {
    let mode = path.metadata().ok().map(|found| found.mode())?;
    (mode & 0o002 != 0).then(|| {
        let path = path.display();
        format!("everybody may replace the keys in {path}: its mode is {:o}; hint: chmod 755 {path}", mode & 0o7777)
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn what_clients_refuse_is_doubted() {
        let of = |params: &CertificateParams| {
            of_certificate(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der()).join("; ")
        };
        let good = CertificateParams::new(vec!["registry.test".to_owned()]).unwrap();
        assert_eq!(of(&good), "");
        let address = CertificateParams::new(vec!["10.0.0.1".to_owned()]).unwrap();
        assert_eq!(of(&address), "");
        let mut expired = good.clone();
        (expired.not_before, expired.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(2001, 1, 1));
        assert!(of(&expired).contains("until Jan") && of(&expired).contains("2001"), "{}", of(&expired));
        let mut future = good.clone();
        future.not_before = date_time_ymd(2900, 1, 1);
        assert!(of(&future).contains("not now"), "{}", of(&future));
        let nameless = CertificateParams::new(Vec::new()).unwrap();
        assert!(of(&nameless).contains("alternative names"), "{}", of(&nameless));
        let mut client = good;
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        assert!(of(&client).contains("usage"), "{}", of(&client));
    }

    #[test]
    fn what_everybody_can_use_is_doubted() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key.pem");
        fs::write(&key, "").unwrap();
        for (mode, is_open) in [(0o600, false), (0o640, false), (0o644, true), (0o606, true)] {
            fs::set_permissions(&key, Permissions::from_mode(mode)).unwrap();
            assert_eq!(of_key(&key).is_some_and(|text| text.contains("chmod 600")), is_open, "{mode:o}");
        }
        for (mode, is_open) in [(0o700, false), (0o755, false), (0o777, true), (0o1777, true)] {
            fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
            assert_eq!(of_folder(folder.path()).is_some_and(|text| text.contains("chmod 755")), is_open, "{mode:o}");
        }
        assert_eq!((of_key(&folder.path().join("x")), of_folder(&folder.path().join("x"))), (None, None));
    }
}
