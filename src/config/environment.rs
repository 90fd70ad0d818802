//! The environment as a source.

use std::ffi::OsString;

use super::{ConfigError, Layer, Origin, Setting};

/// A source of variables. Tests use a closure over a map instead of the process environment.
pub trait Environment {
    /// The value of `name`, if it is set.
    fn get(&self, name: &str) -> Option<OsString>;
}

impl<F: Fn(&str) -> Option<OsString>> Environment for F {
    fn get(&self, name: &str) -> Option<OsString> {
        self(name)
    }
}

/// The variables of this process.
#[derive(Debug, Clone, Copy)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn get(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }
}

/// The settings in `LINKSPAN_*` variables.
pub(super) fn own(environment: &dyn Environment) -> Result<Layer, ConfigError> {
    let mut layer = Layer::default();
    for setting in Setting::ALL {
        read(&mut layer, environment, setting, setting.variable())?;
        if let Some(former) = setting.former_variable().filter(|_| layer.last(setting).is_none()) {
            read(&mut layer, environment, setting, former)?;
        }
    }
    Ok(layer)
}

/// The settings in variables of other programs.
pub(super) fn foreign_variables(environment: &dyn Environment) -> Result<Layer, ConfigError> {
    let mut layer = Layer::default();
    for setting in Setting::ALL {
        if let Some(name) = setting.foreign_variable() {
            read(&mut layer, environment, setting, name.to_owned())?;
        }
    }
    Ok(layer)
}

/// An empty variable counts as unset, as for docker and containerd.
fn read(layer: &mut Layer, from: &dyn Environment, setting: Setting, name: String) -> Result<(), ConfigError> {
    let Some(value) = from.get(&name).filter(|value| !value.is_empty()) else { return Ok(()) };
    let text = value.into_string().map_err(|_| ConfigError::Encoding { name: name.clone() })?;
    if setting.is_list() && name == setting.variable() {
        for item in text.split(',') {
            layer.add(setting, item.trim(), Origin::Variable(name.clone()));
        }
    } else {
        layer.add(setting, text, Origin::Variable(name));
    }
    Ok(())
}
