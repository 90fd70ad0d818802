//! Who a request's client is: the connection's, or the user whom the request names.

use http::StatusCode;
use http::header::{AUTHORIZATION, HeaderMap, RETRY_AFTER, WWW_AUTHENTICATE};

use super::Door;
use super::refusal::{Code, Refusal};
use crate::net::Principal;
use crate::passwords::{TOO_LONG, Unauthenticated, client_of};

/// What clients are asked for (RFC 7617); `docker login` and others then send it with every request.
const CHALLENGE: &str = "Basic realm=\"linkspan\", charset=\"UTF-8\"";

impl Door {
    /// The client of a request.
    pub(super) async fn authenticate(&self, headers: &HeaderMap, client: &Principal) -> Result<Principal, Refusal> {
        client_of(&self.passwords, client, headers.get(AUTHORIZATION)).await.map_err(refused)
    }
}

fn refused(why: Unauthenticated) -> Refusal {
    let message = match why {
        Unauthenticated::NoCredentials => "this registry asks for a name and a password; hint: docker login",
        Unauthenticated::Wrong => "there is no such user, or the password is another",
        Unauthenticated::TooLong => TOO_LONG,
        Unauthenticated::Busy => {
            let message = "too many passwords are being checked; try again";
            let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, Code::TooManyRequests, message);
            return refusal.with(RETRY_AFTER, "1");
        }
    };
    Refusal::new(StatusCode::UNAUTHORIZED, Code::Unauthorized, message).with(WWW_AUTHENTICATE, CHALLENGE)
}
