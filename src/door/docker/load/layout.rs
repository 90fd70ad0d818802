//! Whether an archive is an OCI layout.

use serde::Deserialize;

/// The file `oci-layout` (OCI image specification, `image-layout.md`), stricter than
/// [`check_marker`](crate::image::layout::check_marker): the question here is what dockerd reads, not what can be read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Layout {
    #[serde(rename = "imageLayoutVersion")]
    version: String,
}

/// Whether dockerd will certainly read an archive with this `oci-layout` as an OCI layout: it does so for any version
/// that is not empty (containerd `core/images/archive/importer.go`). Go matches keys in any case and takes the last of
/// several, so any unusual document returns false.
pub(super) fn is_layout(text: &[u8]) -> bool {
    serde_json::from_slice::<Layout>(text).is_ok_and(|layout| !layout.version.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_usual_form_is_certain() {
        assert!(is_layout(br#"{"imageLayoutVersion":"1.0.0"}"#));
        assert!(is_layout(b"{ \"imageLayoutVersion\" : \"1.0.0\" }\n"));
        let unusual: [&[u8]; 7] = [
            b"",
            b"{}",
            br#"{"imageLayoutVersion":""}"#,
            br#"{"imageLayoutVersion":"1.0.0","ImageLayoutVersion":""}"#,
            br#"{"imageLayoutVersion":"1.0.0","imageLayoutVersion":""}"#,
            br#"{"imageLayoutVersion":"1.0.0"}{}"#,
            br#"{"imageLayoutVersion":1}"#,
        ];
        for text in unusual {
            assert!(!is_layout(text), "{}", String::from_utf8_lossy(text));
        }
    }
}
