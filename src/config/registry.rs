//! Checks the registry door.

use super::listen::{Listener, address};
use super::parse::boolean;
use super::{ConfigError, Layer, Setting};
use crate::net::Address;

/// The registry door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryDoor {
    /// Where it listens.
    pub listen: Address,
    /// Whether a mirror's clients may resolve tags.
    pub mirror_tags: bool,
    /// Whether all repositories are listed.
    pub catalog: bool,
    /// Whether clients may push.
    pub writable: bool,
    /// Whether clients are sent to the store for blobs.
    pub redirect: bool,
}

/// Checks the registry door in `settings`, if there is one.
pub(super) fn check(settings: &Layer) -> Result<Option<RegistryDoor>, ConfigError> {
    let is_set = |setting| settings.last(setting).map(boolean).transpose().map(Option::unwrap_or_default);
    let (mirror_tags, catalog) = (is_set(Setting::RegistryMirrorTags)?, is_set(Setting::RegistryCatalog)?);
    let (writable, redirect) = (is_set(Setting::RegistryWritable)?, is_set(Setting::RegistryRedirect)?);
    let Some(given) = settings.last(Setting::RegistryListen) else {
        let options = [
            (Setting::RegistryMirrorTags, mirror_tags),
            (Setting::RegistryCatalog, catalog),
            (Setting::RegistryWritable, writable),
            (Setting::RegistryRedirect, redirect),
        ];
        return match options.into_iter().find(|(_, is_set)| *is_set) {
            Some((option, _)) => Err(ConfigError::Contradiction(format!(
                "--{} is for the registry door, and there is none; open it with --{} tcp://127.0.0.1:5000",
                option.name(),
                Setting::RegistryListen.name()
            ))),
            None => Ok(None),
        };
    };
    Ok(Some(RegistryDoor {
        listen: address(given, settings, Listener::Registry { is_writable: writable })?,
        mirror_tags,
        catalog,
        writable,
        redirect,
    }))
}
