//! The targets of a Commit, checked before anything is done.

use super::errors::other_image;
use super::session::Session;
use super::sessions::Sessions;
use super::{exporters, record};
use crate::export_v1::ApiError;
use crate::export_v1::convert;
use crate::export_v1::limits::NAMES;
use crate::export_v1::proto::Target;
use crate::image::{Descriptor, Kind, Reference};

/// One target that was checked.
pub(super) struct Checked {
    pub(super) target: Target,
    pub(super) exporter: record::Exporter,
    pub(super) root: Descriptor,
    /// Those of the exporter and of the target.
    pub(super) names: Vec<Reference>,
}

/// Checks all targets.
///
/// # Errors
/// Everything that is wrong with them.
pub(super) fn check(sessions: &Sessions, session: &Session, targets: &[Target]) -> Result<Vec<Checked>, ApiError> {
    let (mut checked, mut wrong) = (Vec::new(), Vec::new());
    if targets.is_empty() {
        wrong.push(("targets".to_owned(), "none is given; expected at least one".to_owned()));
    }
    let engine = sessions.exports.engine().identity();
    for (at, target) in targets.iter().enumerate() {
        let field = |name: &str| format!("targets[{at}].{name}");
        let Some(exporter) = session.record.exporter(&target.exporter_id) else {
            let known: Vec<_> = session.record.exporters.iter().map(|exporter| exporter.id.as_str()).collect();
            wrong.push((field("exporter_id"), format!("not of this export; expected one of: {}", known.join(", "))));
            continue;
        };
        if targets[..at].iter().any(|earlier| earlier.exporter_id == target.exporter_id) {
            wrong.push((field("exporter_id"), "named twice".to_owned()));
        }
        let root = match target.root.as_ref().map(|root| convert::descriptor(&field("root"), root)) {
            Some(Ok(root)) if matches!(root.kind(), Kind::Index | Kind::Manifest) => Some(root),
            Some(Ok(root)) => {
                let what = format!("`{}` is neither an index nor a manifest", root.media_type);
                wrong.push((field("root.media_type"), what));
                None
            }
            Some(Err(violations)) => {
                wrong.extend(violations);
                None
            }
            None => {
                wrong.push((field("root"), "not given".to_owned()));
                None
            }
        };
        let given = exporter.attributes.get("name").map(String::as_str).unwrap_or_default();
        let mut names = exporters::names_of(given).unwrap_or_default();
        for (number, name) in target.names.iter().enumerate() {
            match name.parse::<Reference>() {
                Ok(name) if names.contains(&name) => {}
                Ok(name) => names.push(name),
                Err(error) => wrong.push((field(&format!("names[{number}]")), error.to_string())),
            }
        }
        if names.len() > NAMES {
            wrong.push((field("names"), format!("{} names; at most {NAMES}", names.len())));
        }
        if let Some(kind) = exporters::find(&exporter.kind, engine)
            && let Err(what) = exporters::check_names(&kind.describe(engine), names.len())
        {
            wrong.push((field("names"), what));
        }
        if let Some(root) = &root {
            let others = names.iter().filter(|name| !name.admits(&root.digest));
            wrong.extend(others.map(|name| (field("names"), format!("`{name}`: {}", other_image(&root.digest)))));
        }
        if let Some(mut root) = root {
            root.annotations.extend(target.annotations.clone());
            checked.push(Checked { target: target.clone(), exporter: exporter.clone(), root, names });
        }
    }
    if wrong.is_empty() { Ok(checked) } else { Err(ApiError::fields(wrong)) }
}
