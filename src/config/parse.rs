//! Parses values.

use super::{ConfigError, Given};

/// The error for a value; `reason` continues the sentence that begins with it.
pub(super) fn invalid(given: &Given, reason: impl Into<String>) -> ConfigError {
    ConfigError::Value { origin: given.origin.clone(), text: given.text.clone(), reason: reason.into() }
}

/// `true` or `false`.
pub(super) fn boolean(given: &Given) -> Result<bool, ConfigError> {
    match given.text.as_str() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(invalid(given, "is neither `true` nor `false`")),
    }
}
