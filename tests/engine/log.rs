//! What the engine logs of layers.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Mutex, OnceLock};

use linkspan::image::Digest;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

/// Why layers were left to containerd's diff service.
static LEFT: OnceLock<Mutex<HashMap<String, String>>> = OnceLock::new();

struct Record;

#[derive(Default)]
struct Fields(HashMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

impl<S: Subscriber> Layer<S> for Record {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let message = fields.0.remove("message").unwrap_or_default();
        if message == "containerd's diff service unpacks the layer" {
            let (layer, reason) = (fields.0.remove("layer").unwrap(), fields.0.remove("reason").unwrap());
            LEFT.get().unwrap().lock().unwrap().insert(layer, reason);
        }
        if message == "containerd's diff service unpacks all layers" {
            let mut left = LEFT.get().unwrap().lock().unwrap();
            *left.entry(String::new()).or_default() += &format!("{}\n", fields.0.remove("reason").unwrap());
        }
    }
}

/// Begins to listen. The whole process has one log.
pub(crate) fn listen() {
    LEFT.get_or_init(|| {
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Record)).unwrap();
        Mutex::default()
    });
}

/// Why a layer was left to containerd's diff service, if it was, since [`listen`].
pub(crate) fn left(layer: &Digest) -> Option<String> {
    LEFT.get().unwrap().lock().unwrap().get(layer.as_str()).cloned()
}

/// Why containerds unpack everything, if any do; a line for each time.
pub(crate) fn all_left() -> Option<String> {
    LEFT.get().unwrap().lock().unwrap().get("").cloned()
}
