//! What an object store's refusals mean.

use object_store::Error;
use object_store::client::{HttpError, HttpErrorKind};

use crate::engine::EngineError;

/// The longest text of a store that is shown, in characters: some answer with whole pages.
const MAX_TEXT: usize = 600;

const CLOCK: &str =
    "check the clock of this machine: the store refuses requests whose time differs too much from its own";

/// What can be done where a store refuses, in the words of its provider.
#[derive(Debug)]
struct Hints {
    denied: &'static str,
    no_credentials: &'static str,
    no_bucket: &'static str,
    unreachable: &'static str,
}

const AMAZON: Hints = Hints {
    denied: "check that the credentials (AWS_ACCESS_KEY_ID, …) may read, list, write and delete below this address",
    no_credentials: "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run where a role of the machine gives them",
    no_bucket: "create the bucket first, and check its name, region (AWS_REGION) and endpoint (AWS_ENDPOINT_URL)",
    unreachable: "check the endpoint (AWS_ENDPOINT_URL), the network and the state of the store; nothing of an export is \
                  visible until all of it is stored: export again",
};
const GOOGLE: Hints = Hints {
    denied: "check that the service account (GOOGLE_SERVICE_ACCOUNT) may read, list, write and delete below this address",
    no_credentials: "set GOOGLE_SERVICE_ACCOUNT to the file of a service account's key, or run where a role of the machine \
                     gives the credentials",
    no_bucket: "create the bucket first, and check its name and the project of the service account",
    unreachable: "check the network and the state of the store; nothing of an export is visible until all of it is stored: \
                  export again",
};
const AZURE: Hints = Hints {
    denied: "check that the credentials (AZURE_STORAGE_ACCOUNT_KEY, …) may read, list, write and delete below this address",
    no_credentials: "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or run where a role of the machine gives \
                     them",
    no_bucket: "create the container first, and check its name, the account (AZURE_STORAGE_ACCOUNT_NAME) and the endpoint \
                (AZURE_STORAGE_ENDPOINT)",
    unreachable: "check the endpoint (AZURE_STORAGE_ENDPOINT), the network and the state of the store; nothing of an export \
                  is visible until all of it is stored: export again",
};

impl Hints {
    /// Those of the provider at whose address `object` is.
    fn of(object: &str) -> &'static Self {
        match object.split_once("://") {
            Some(("gs", _)) => &GOOGLE,
            Some(("az", _)) => &AZURE,
            _ => &AMAZON,
        }
    }
}

/// The error of the operation on `object`.
pub(crate) fn failure(operation: &'static str, object: String, error: &Error) -> EngineError {
    let text = describe(error);
    let is = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if is(&["507 ", "StorageFull", "QuotaExceeded", "InsufficientStorage"]) || EngineError::is_no_space(&text) {
        return EngineError::NoSpace { operation: format!("{operation} {object}"), message: text };
    }
    let hints = Hints::of(&object);
    let hint = match error {
        _ if is(&["RequestTimeTooSkewed"]) => Some(CLOCK),
        Error::Unauthenticated { .. } => Some(hints.no_credentials),
        _ if is(&["169.254.169.254", "metadata.google", "MissingCredential"]) => Some(hints.no_credentials),
        Error::PermissionDenied { .. } => Some(hints.denied),
        // A list has no error of its own for that.
        _ if is(&["403 Forbidden", "AccessDenied"]) => Some(hints.denied),
        _ if is(&["401 Unauthorized"]) => Some(hints.no_credentials),
        _ if is(&["NoSuchBucket", "ContainerNotFound", "PermanentRedirect", "without LOCATION"]) => {
            Some(hints.no_bucket)
        }
        Error::Generic { .. } => Some(hints.unreachable),
        _ => None,
    };
    EngineError::Object { operation, object, reason: text, hint }
}

/// Whether nobody accepts connections at the address of the store.
pub(super) fn is_unreachable(error: &Error) -> bool {
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        if cause.downcast_ref::<HttpError>().is_some_and(|error| error.kind() == HttpErrorKind::Connect) {
            return true;
        }
        next = cause.source();
    }
    false
}

/// What happened: the answer of the store, without the request's URL and how often it was repeated.
pub(super) fn describe(error: &Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    // `Error performing PUT http://… in 12ms, after 5 retries, … - Server returned …: <xml>`
    let answer = text.split_once("Error performing").and_then(|(_, rest)| rest.split_once(" - "));
    let answer = answer.map_or(text.as_str(), |(_, answer)| answer);
    let element = |name: &str| {
        let (_, rest) = answer.split_once(&format!("<{name}>"))?;
        rest.split_once(&format!("</{name}>")).map(|(text, _)| text)
    };
    let text = match (element("Code"), element("Message"), answer.split_once(": <")) {
        (Some(code), Some(message), Some((status, _))) => format!("{status}: {code}: {message}"),
        _ => answer.to_owned(),
    };
    let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(MAX_TEXT) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> EngineError {
        failure("writing", "s3://b/key".to_owned(), &Error::Generic { store: "S3", source: text.into() })
    }

    #[test]
    fn the_words_of_the_store_are_shown_without_the_request() {
        let busy = "Error performing PUT http://h/b/key in 1.2s, after 3 retries, max_retries: 3, retry_timeout: 60s  - Server \
                    returned non-2xx status code: 503 Service Unavailable: <?xml version=\"1.0\"?>\n<Error><Code>SlowDown</Code>\
                    <Message>Reduce your request rate</Message></Error>";
        let error = of(busy);
        let expected = "writing s3://b/key: Server returned non-2xx status code: 503 Service Unavailable: SlowDown: Reduce your \
                        request rate";
        assert_eq!(error.to_string(), expected);
        assert!(error.hint().unwrap().contains("AWS_ENDPOINT_URL"));
        assert!(of(&"x".repeat(10_000)).to_string().len() < 1_000);
    }

    #[test]
    fn what_can_be_done_depends_on_the_refusal() {
        let full = of("Error performing PUT - 507 Insufficient Storage: <Code>XMinioStorageFull</Code>");
        assert!(matches!(full, EngineError::NoSpace { .. }) && full.hint().unwrap().contains("bucket"), "{full}");
        let none = of("<Code>NoSuchBucket</Code>");
        assert!(none.hint().unwrap().contains("create the bucket"));
        let absent = Error::Generic { store: "", source: "<Code>ContainerNotFound</Code>".into() };
        for (object, word) in [("s3://b/k", "AWS_REGION"), ("gs://b/k", "service account"), ("az://b/k", "AZURE_")] {
            assert!(failure("writing", object.to_owned(), &absent).hint().unwrap().contains(word), "{object}");
        }
        let source = || "no".to_owned().into();
        let unsigned = of("Error performing GET - 403 Forbidden: <Code>SignatureDoesNotMatch</Code>");
        assert!(unsigned.hint().unwrap().contains("credentials"), "{unsigned}");
        let skewed = "Error performing GET - 403 Forbidden: <Code>RequestTimeTooSkewed</Code>";
        assert!(of(skewed).hint().unwrap().contains("clock of this machine"));
        let denied = Error::PermissionDenied { path: "key".to_owned(), source: source() };
        assert!(failure("writing", String::new(), &denied).hint().unwrap().contains("credentials"));
    }
}
