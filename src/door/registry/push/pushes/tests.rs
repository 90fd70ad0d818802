//! Too many pushes at once.

use std::net::SocketAddr;
use std::time::Duration;

use super::super::limits::UNSENT_IDLE;
use super::*;
use crate::activity::Arrival;
use crate::engine::fixture::layout;
use crate::image::Digest;

fn repository(name: &str) -> Repository {
    Repository::of(name, None).unwrap()
}

async fn status_of(pushes: &Pushes, name: &str, client: &Principal) -> Option<StatusCode> {
    pushes.of(&repository(name), client).await.err().map(|refusal| refusal.status)
}

#[tokio::test(start_paused = true)]
async fn what_nobody_would_miss_ends_before_anybody_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let exports = Arc::new(Exports::new(layout(folder.path()).await));
    let pushes = Pushes::open(exports, "tcp://127.0.0.1:5000".to_owned()).await;
    // Of whatever address.
    let client = |last: u8| Principal::from(SocketAddr::from(([127, 0, 0, last], 1)));
    let (one, other) = (client(1), client(2));
    let user = Principal::User { name: "ci".to_owned() };
    let is_there = |name: &str| pushes.find(&repository(name), &one).is_some();
    let digest = Digest::sha256(b"blob");

    pushes.of(&repository("sent"), &one).await.unwrap().uploaded(&digest, 1, Arrival::Sent);
    pushes.of(&repository("found"), &one).await.unwrap().awaits(Some(&digest));
    pushes.of(&repository("begun"), &one).await.unwrap().begin();
    for number in 3..PUSHES_OF_CLIENT {
        pushes.of(&repository(&format!("empty/{number}")), &one).await.unwrap();
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    // The one that was used least recently.
    is_there("empty/3");
    for name in ["new/1", "new/2"] {
        assert_eq!(status_of(&pushes, name, &other).await, None);
    }
    assert_eq!(pushes.pushes().len(), PUSHES_OF_CLIENT);
    assert!(is_there("empty/3") && !is_there("empty/4") && !is_there("empty/5") && is_there("empty/6"));

    // What is used stays.
    let used: Vec<_> = pushes.pushes().values().filter(|push| push.waits_for_nothing()).cloned().collect();
    let mut used: Vec<_> = used.into_iter().filter(|push| push.uploads().is_empty()).collect();
    used.push(pushes.of(&repository("new/3"), &other).await.unwrap());
    assert!(is_there("sent") && !is_there("found") && is_there("begun"), "it is what is lost least");
    assert_eq!(status_of(&pushes, "new/4", &other).await, Some(StatusCode::TOO_MANY_REQUESTS));
    assert_eq!(status_of(&pushes, "new/4", &user).await, None, "each client has its own limit");

    // An upload to which nothing was sent ends, and at last what nobody goes on with.
    tokio::time::advance(UNSENT_IDLE).await;
    used.push(pushes.of(&repository("new/5"), &other).await.unwrap());
    assert!(is_there("sent") && !is_there("begun"));
    assert_eq!(status_of(&pushes, "new/6", &other).await, Some(StatusCode::TOO_MANY_REQUESTS));
    tokio::time::advance(SENT_IDLE).await;
    used.push(pushes.of(&repository("new/6"), &other).await.unwrap());
    assert!(!is_there("sent"));
    assert_eq!(pushes.pushes().len(), PUSHES_OF_CLIENT + 1);
}

#[tokio::test(start_paused = true)]
async fn uploads_that_were_only_begun_keep_nobody_out() {
    let folder = tempfile::tempdir().unwrap();
    let exports = Arc::new(Exports::new(layout(folder.path()).await));
    let pushes = Pushes::open(exports, "tcp://127.0.0.1:5000".to_owned()).await;
    let client = Principal::User { name: "ci".to_owned() };
    let push = pushes.of(&repository("app"), &client).await.unwrap();
    let first = push.begin();
    for _ in 1..UPLOADS_OF_CLIENT {
        push.begin();
    }
    assert!(pushes.check_room(&client).is_err());
    tokio::time::advance(UNSENT_IDLE).await;
    assert!(pushes.check_room(&client).is_ok());
    let left: Vec<_> = push.uploads().keys().cloned().collect();
    assert_eq!(left, std::slice::from_ref(&first.id), "a request uses it");
}
