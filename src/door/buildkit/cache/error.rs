//! Errors of caches, as a builder gets them.

use tonic::Code;

use crate::caches::CacheError;
use crate::export_v1::ApiError;

/// The error for the builder, which shows it to its client. Never UNAVAILABLE, which its writer repeats for ever (containerd
/// `core/content/helpers.go`, `OpenWriter`).
pub(super) fn failure(error: CacheError) -> ApiError {
    let message = match error.hint() {
        Some(hint) => format!("linkspan: {error}; hint: {hint}"),
        None => format!("linkspan: {error}"),
    };
    ApiError { code: Code::Unknown, message, ..ApiError::from(error) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export_v1::proto::Reason;

    #[test]
    fn a_builder_gets_the_reason_and_no_code_that_makes_it_repeat_the_call() {
        let limit = CacheError::TooLarge { reference: "app".to_owned(), bytes: 2, limit: 1 };
        let away = CacheError::Fetch("the builder has ended".to_owned());
        for (error, reason) in [(limit, Reason::Quota), (away, Reason::EngineUnavailable)] {
            let refusal = failure(error);
            assert_eq!((refusal.code, refusal.reason), (Code::Unknown, reason));
            assert!(refusal.message.starts_with("linkspan: "), "{}", refusal.message);
        }
    }
}
