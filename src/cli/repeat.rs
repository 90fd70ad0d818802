//! The flags that hints repeat: a suggested command must use the same engine as the failed one.

use super::settings::{EngineSettings, TargetSettings};

/// `flags` that have a value, quoted for a shell, each after a space.
pub(super) fn flags<'a>(flags: impl IntoIterator<Item = (&'a str, Option<&'a str>)>) -> String {
    let given = flags.into_iter().filter_map(|(name, value)| Some((name, value?)));
    given.map(|(name, value)| format!(" --{name} {}", word(value))).collect()
}

/// A word, quoted for a shell if necessary.
fn word(text: &str) -> String {
    let is_plain = |letter: char| letter.is_alphanumeric() || "@%_+=:,./-".contains(letter);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

impl EngineSettings {
    /// The flags that were given.
    pub(super) fn repeated(&self) -> String {
        flags([
            ("config", self.config.as_deref()),
            ("engine", self.engine.as_deref()),
            ("docker-host", self.docker_host.as_deref()),
            ("containerd-address", self.containerd_address.as_deref()),
            ("namespace", self.namespace.as_deref()),
            ("layout", self.layout.as_deref()),
            ("object", self.object.as_deref()),
            ("cache-dir", self.cache_dir.as_deref()),
            ("layer-applier", self.layer_applier.as_deref()),
        ])
    }
}

impl TargetSettings {
    /// The flags that were given.
    pub(super) fn repeated(&self) -> String {
        let to = self.to.as_ref().map(ToString::to_string);
        flags([("to", to.as_deref())]) + &flags(self.tls.flags()) + &self.engine.repeated()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_repeated_as_a_shell_takes_them() {
        let text = flags([("engine", Some("layout")), ("namespace", None), ("layout", Some("/a b/it's"))]);
        assert_eq!(text, r" --engine layout --layout '/a b/it'\''s'");
        assert_eq!(flags([("to", None)]), "");
        assert_eq!(word(""), "''");
    }
}
