//! Who a client's certificate names.

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::net::Principal;

/// The longest name, in bytes; it becomes part of labels and records.
const MAX_NAME: usize = 255;

/// The principal of a certificate that was verified: its first alternative name that is a DNS name, a URI or a mail address,
/// else its common name.
pub(super) fn of(certificate: &CertificateDer<'_>) -> Result<Principal, String> {
    let (_, parsed) = X509Certificate::from_der(certificate.as_ref())
        .map_err(|error| format!("a client's certificate cannot be read: {error}"))?;
    let alternatives = parsed
        .subject_alternative_name()
        .map_err(|error| format!("the alternative names of a client's certificate cannot be read: {error}"))?;
    let alternative = alternatives.iter().flat_map(|names| &names.value.general_names).find_map(|name| match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) | GeneralName::RFC822Name(name) => Some(*name),
        _ => None,
    });
    let common = || parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    match alternative.or_else(common) {
        Some(subject) if is_usable(subject) => Ok(Principal::Certificate { subject: subject.to_owned() }),
        Some(_) => Err(format!("the name in a client's certificate is longer than {MAX_NAME} bytes or no plain text")),
        None => Err("a client's certificate has neither an alternative nor a common name".to_owned()),
    }
}

fn is_usable(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_NAME && !name.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn name(params: &CertificateParams) -> Result<String, String> {
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        match of(certificate.der())? {
            Principal::Certificate { subject } => Ok(subject),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn an_alternative_name_comes_before_the_common_name() {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "common");
        assert_eq!(name(&params).as_deref(), Ok("common"));
        params.subject_alt_names.push(SanType::IpAddress([10, 0, 0, 1].into()));
        assert_eq!(name(&params).as_deref(), Ok("common"), "an address is nobody");
        params.subject_alt_names.push(SanType::URI("spiffe://x/ci".try_into().unwrap()));
        params.subject_alt_names.push(SanType::DnsName("later".try_into().unwrap()));
        assert_eq!(name(&params).as_deref(), Ok("spiffe://x/ci"));
        params.subject_alt_names = vec![SanType::Rfc822Name("ci@x".try_into().unwrap())];
        assert_eq!(name(&params).as_deref(), Ok("ci@x"));
    }

    #[test]
    fn a_certificate_without_a_usable_name_is_nobodys() {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        name(&params).unwrap_err();
        params.distinguished_name.push(DnType::CommonName, "a\nb");
        name(&params).unwrap_err();
        params.subject_alt_names = vec![SanType::DnsName("x".repeat(256).try_into().unwrap())];
        name(&params).unwrap_err();
    }
}
