//! The compression that the request for a build has in place of none.
//!
//! A builder applies an exporter's compression to layers that have no blob yet, and keeps the first blob that it made of one,
//! also for later exports of any kind (BuildKit `cache/blobs.go`, `cache/remote.go`). Base layers and layers that it made before
//! stay as they are, unless `force-compression` is for all of them.

use bytes::Bytes;

use super::exporters::{Exporter, is_true};
use super::solve::Solve;
use super::wire::WireError;
use crate::build_outputs::{LoadCompression, OutputOptions, PushCompression};

const COMPRESSION: &str = "compression";
const LEVEL: &str = "compression-level";
const FORCE: &str = "force-compression";

/// Outputs that have files instead of layers.
const WITHOUT_LAYERS: [&str; 2] = ["local", "tar"];

/// The first version of BuildKit's results that zstd is allowed in (`solver/llbsolver/compat`); requests without a version
/// have the newest one.
const FIRST_WITH_ZSTD: u64 = 20;

impl Exporter {
    /// Whether the client itself names a compression.
    pub(super) fn names_compression(&self) -> bool {
        [COMPRESSION, LEVEL, FORCE].into_iter().any(|key| self.attrs.contains_key(key))
    }

    /// The same exporter, with the compression of `setting` unless it names one.
    pub(super) fn compressed(mut self, setting: LoadCompression) -> Self {
        let (compression, level) = match setting {
            LoadCompression::Unchanged => return self,
            LoadCompression::Fast => ("gzip", Some("1")),
            LoadCompression::Zstd => ("zstd", None),
            LoadCompression::Uncompressed => ("uncompressed", None),
        };
        if !self.names_compression() {
            self.attrs.insert(COMPRESSION.to_owned(), compression.to_owned());
            self.attrs.extend(level.map(|level| (LEVEL.to_owned(), level.to_owned())));
        }
        self
    }

    /// Whether it pushes an image.
    fn is_push(&self) -> bool {
        self.kind == "image" && self.attrs.get("push").is_some_and(|value| is_true(value))
    }
}

impl Solve {
    /// How new layers of its loads are compressed. All exporters of a build share the layers, so that those of a build with
    /// other outputs of layers stay as the client requested them.
    pub(super) fn load_compression(&self, options: OutputOptions) -> LoadCompression {
        let is_other = |exporter: &Exporter| {
            !exporter.is_load(options.plain_is_load) && !WITHOUT_LAYERS.contains(&exporter.kind.as_str())
        };
        let is_refused =
            options.load_compression == LoadCompression::Zstd && (1..FIRST_WITH_ZSTD).contains(&self.compatibility);
        if self.cache.has_others || is_refused || self.exporters.iter().any(is_other) {
            LoadCompression::Unchanged
        } else {
            options.load_compression
        }
    }

    /// The request with the compression that `options` have for its pushes; `None` if that changes nothing. Its loads get the
    /// same, so that they have the digests of the pushes.
    pub(super) fn with_pushes(&self, options: OutputOptions) -> Result<Option<Bytes>, WireError> {
        let is_pushed = |exporter: &Exporter| exporter.is_push() && !exporter.names_compression();
        if options.push_compression == PushCompression::Unchanged || !self.exporters.iter().any(is_pushed) {
            return Ok(None);
        }
        let is_loaded = |exporter: &Exporter| exporter.is_load(options.plain_is_load) && !exporter.names_compression();
        let is_edited = |exporter: &Exporter| is_pushed(exporter) || is_loaded(exporter);
        let mut exporters = self.exporters.clone();
        for exporter in exporters.iter_mut().filter(|exporter| is_edited(exporter)) {
            let attrs = [(COMPRESSION, "gzip"), (FORCE, "true")];
            exporter.attrs.extend(attrs.map(|(key, value)| (key.to_owned(), value.to_owned())));
        }
        self.with_exporters(&exporters).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use bollard_buildkit_proto::moby::buildkit::v1 as proto;
    use prost::Message as _;

    use super::*;
    use crate::door::buildkit::wire::put_varint;

    const MARK: (&str, &str) = ("prefer-image-digest", "true");

    fn exporter(kind: &str, attrs: &[(&str, &str)]) -> proto::Exporter {
        let attrs = attrs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        proto::Exporter { r#type: kind.to_owned(), attrs }
    }

    fn solve(exporters: Vec<proto::Exporter>, caches: &[&str], compatibility: u64) -> Solve {
        let exports = caches
            .iter()
            .map(|kind| proto::CacheOptionsEntry { r#type: (*kind).to_owned(), ..proto::CacheOptionsEntry::default() });
        let cache = Some(proto::CacheOptions { exports: exports.collect(), ..proto::CacheOptions::default() });
        let request = proto::SolveRequest { exporters, cache, ..proto::SolveRequest::default() };
        let mut message = request.encode_to_vec();
        put_varint(&mut message, 16, compatibility);
        Solve::read(message.into()).unwrap()
    }

    fn loads(load_compression: LoadCompression) -> OutputOptions {
        OutputOptions { load_compression, ..OutputOptions::default() }
    }

    #[test]
    fn a_load_gets_the_setting_unless_its_client_names_a_compression() {
        for (setting, attrs, expected) in [
            (LoadCompression::Unchanged, &[][..], &[][..]),
            (LoadCompression::Fast, &[], &[(COMPRESSION, "gzip"), (LEVEL, "1")]),
            (LoadCompression::Zstd, &[], &[(COMPRESSION, "zstd")]),
            (LoadCompression::Uncompressed, &[], &[(COMPRESSION, "uncompressed")]),
            (LoadCompression::Uncompressed, &[(COMPRESSION, "gzip")], &[(COMPRESSION, "gzip")]),
            (LoadCompression::Uncompressed, &[(LEVEL, "9")], &[(LEVEL, "9")]),
            (LoadCompression::Zstd, &[(FORCE, "true")], &[(FORCE, "true")]),
        ] {
            let solve = solve(vec![exporter("oci", &[&[MARK], attrs].concat())], &[], 0);
            let exporter = solve.builder_exporters(loads(setting)).unwrap().remove(0);
            let found: Vec<_> = exporter
                .attrs
                .iter()
                .filter(|(key, _)| key.contains("compression"))
                .map(|(key, value)| (key.as_str(), value.as_str()))
                .collect();
            assert_eq!(found, expected, "{setting:?} {attrs:?}");
        }
    }

    #[test]
    fn other_outputs_keep_the_layers_that_they_request() {
        let load = || exporter("oci", &[MARK]);
        let (fast, zstd, unchanged) = (LoadCompression::Fast, LoadCompression::Zstd, LoadCompression::Unchanged);
        for (others, caches, setting, compatibility, expected) in [
            (vec![], &[][..], fast, 0, fast),
            (vec![exporter("local", &[]), exporter("tar", &[]), load()], &["inline", "linkspan"], fast, 0, fast),
            (vec![exporter("image", &[("push", "true")])], &[], fast, 0, unchanged),
            (vec![exporter("oci", &[("dest", "x")])], &[], fast, 0, unchanged),
            (vec![exporter("later", &[])], &[], fast, 0, unchanged),
            (vec![], &["registry"], fast, 0, unchanged),
            (vec![], &[], zstd, 30, zstd),
            (vec![], &[], zstd, 10, unchanged),
            (vec![], &[], fast, 10, fast),
        ] {
            let solve = solve([vec![load()], others.clone()].concat(), caches, compatibility);
            assert_eq!(solve.load_compression(loads(setting)), expected, "{others:?} {caches:?} {compatibility}");
        }
    }

    #[test]
    fn pushes_are_made_gzip_where_that_is_set_and_nothing_else_is_named() {
        let push = |attrs: &[(&str, &str)]| exporter("image", &[&[("push", "true"), ("name", "a")], attrs].concat());
        let exporters = vec![
            push(&[]),
            push(&[(COMPRESSION, "zstd")]),
            exporter("image", &[("name", "a")]),
            exporter("oci", &[("dest", "x")]),
            exporter("oci", &[MARK, (COMPRESSION, "zstd")]),
        ];
        let gzip = OutputOptions { push_compression: PushCompression::Gzip, ..OutputOptions::default() };
        let solve = solve(exporters.clone(), &[], 0);
        assert_eq!(solve.with_pushes(OutputOptions::default()).unwrap(), None);
        let edited = proto::SolveRequest::decode(solve.with_pushes(gzip).unwrap().unwrap()).unwrap();
        assert_eq!(edited.exporters[0], push(&[(COMPRESSION, "gzip"), (FORCE, "true")]));
        assert_eq!(edited.exporters[1..], exporters[1..]);
        let others = self::solve(exporters[1..].to_vec(), &[], 0);
        assert_eq!(others.with_pushes(gzip).unwrap(), None);
    }

    #[test]
    fn the_load_of_a_build_that_also_pushes_has_the_layers_of_the_push() {
        let exporters = vec![exporter("image", &[("push", "true"), ("name", "a")]), exporter("oci", &[MARK])];
        let compression = LoadCompression::Zstd;
        let options = OutputOptions {
            push_compression: PushCompression::Gzip,
            load_compression: compression,
            ..OutputOptions::default()
        };
        let message = solve(exporters, &[], 0).with_pushes(options).unwrap().unwrap();
        let sent = Solve::read(message).unwrap().builder_exporters(options).unwrap();
        for exporter in sent {
            let found = [COMPRESSION, FORCE].map(|key| exporter.attrs.get(key).map(String::as_str));
            assert_eq!(found, [Some("gzip"), Some("true")], "{exporter:?}");
        }
        // Without a push it has its own.
        let alone = solve(vec![exporter("oci", &[MARK])], &[], 0);
        assert_eq!(alone.with_pushes(options).unwrap(), None);
        assert_eq!(alone.load_compression(options), compression);
    }
}
