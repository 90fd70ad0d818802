//! Real hashes, of a low cost.

use super::*;

fn hash(password: &str) -> String {
    let parts = bcrypt::hash_with_result(password, 4).unwrap();
    parts.format_for_version(bcrypt::Version::TwoY)
}

fn basic(user: &str, password: &str) -> HeaderValue {
    let encoded = BASE64_STANDARD.encode(format!("{user}:{password}"));
    HeaderValue::from_str(&format!("Basic {encoded}")).unwrap()
}

fn peer() -> Principal {
    Principal::from(std::net::SocketAddr::from(([10, 0, 0, 1], 1)))
}

async fn of(passwords: &Passwords, header: &HeaderValue) -> Result<String, Unauthenticated> {
    match passwords.authenticate(&peer(), Some(header)).await? {
        Principal::User { name } => Ok(name),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn only_the_right_password_is_a_user() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = format!("\u{feff}# users\n\nci:{}\nother:{}\n", hash("secret:with:colons"), hash("b"));
    std::fs::write(file.path(), text).unwrap();
    let passwords = Passwords::open(file.path()).unwrap();
    for again in [false, true] {
        assert_eq!(of(&passwords, &basic("ci", "secret:with:colons")).await.as_deref(), Ok("ci"), "{again}");
        assert_eq!(of(&passwords, &basic("ci", "b")).await, Err(Unauthenticated::Wrong));
        assert_eq!(of(&passwords, &basic("other", "b")).await.as_deref(), Ok("other"));
        assert_eq!(of(&passwords, &basic("nobody", "b")).await, Err(Unauthenticated::Wrong));
    }
    assert_eq!(passwords.file.current().remembered.lock().unwrap().len(), 2, "what was right");
    for header in ["Basic", "Basic !", "Bearer eyJ", "Basic Y2k=", &format!("Basic {}", "A".repeat(5000))] {
        let header = HeaderValue::from_str(header).unwrap();
        assert_eq!(of(&passwords, &header).await, Err(Unauthenticated::Wrong), "{header:?}");
    }
    assert_eq!(passwords.authenticate(&peer(), None).await.unwrap_err(), Unauthenticated::NoCredentials);
}

#[tokio::test]
async fn of_a_password_that_is_too_long_nothing_is_checked() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let longest = "x".repeat(MAX_PASSWORD);
    std::fs::write(file.path(), format!("ci:{}\n", hash(&longest))).unwrap();
    let passwords = Passwords::open(file.path()).unwrap();
    assert_eq!(of(&passwords, &basic("ci", &longest)).await.as_deref(), Ok("ci"));
    for more in ["x", "something else"] {
        let refused = of(&passwords, &basic("ci", &format!("{longest}{more}"))).await;
        assert_eq!(refused, Err(Unauthenticated::TooLong));
    }
}

#[tokio::test]
async fn a_changed_password_ends_what_is_remembered() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("ci:{}\n", hash("old"))).unwrap();
    let passwords = Passwords::open(file.path()).unwrap();
    of(&passwords, &basic("ci", "old")).await.unwrap();
    std::fs::write(file.path(), format!("ci:{}\n", hash("new"))).unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(of(&passwords, &basic("ci", "old")).await, Err(Unauthenticated::Wrong));
    of(&passwords, &basic("ci", "new")).await.unwrap();
    // It is being written, or was lost: the users stay.
    for empty in ["", "\u{feff}\n \n"] {
        std::fs::write(file.path(), empty).unwrap();
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert_eq!(of(&passwords, &basic("ci", "new")).await.as_deref(), Ok("ci"), "{empty:?}");
        let error = Passwords::open(file.path()).unwrap_err().to_string();
        assert!(error.contains("it is empty; expected users"), "{error}");
    }
    // Nobody is left.
    std::fs::write(file.path(), "# nobody\n").unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(of(&passwords, &basic("ci", "new")).await, Err(Unauthenticated::Wrong));
}

#[tokio::test]
async fn too_many_checks_at_once_are_refused_and_remembered_ones_are_not() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("ci:{}\n", hash("right"))).unwrap();
    let passwords = Passwords::open(file.path()).unwrap();
    of(&passwords, &basic("ci", "right")).await.unwrap();
    let _all: Vec<_> = std::iter::from_fn(|| passwords.queue.enter(&peer())).collect();
    assert_eq!(of(&passwords, &basic("ci", "wrong")).await, Err(Unauthenticated::Busy));
    of(&passwords, &basic("ci", "right")).await.unwrap();
}

#[tokio::test]
async fn an_unknown_user_is_checked_against_a_hash_too() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let ours = hash("right");
    std::fs::write(file.path(), format!("ci:{ours}\n")).unwrap();
    let passwords = Passwords::open(file.path()).unwrap();
    let known = passwords.file.current();
    assert_eq!(known.users.hash_of("nobody", |text| passwords.hashed(&[text])), (ours.as_str(), false));
    // Its owner's password does not make him that user.
    assert_eq!(of(&passwords, &basic("nobody", "right")).await, Err(Unauthenticated::Wrong));
    let empty = Users::default();
    let (nobodys, exists) = empty.hash_of("x", |text| passwords.hashed(&[text]));
    assert!(!exists && bcrypt::verify("x", nobodys).is_ok_and(|is_right| !is_right));
}

#[test]
fn files_with_anything_else_are_refused_by_their_lines() {
    let good = hash("x");
    for (text, words) in [
        ("ci".to_owned(), "line 1 has no colon"),
        (format!("\n:{good}"), "line 2 has no usable name"),
        ("ci:$apr1$9Cv/OMGj$ZomWQzuQL.3TRCS81A1g/1".to_owned(), "no bcrypt hash for `ci`"),
        ("ci:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=".to_owned(), "no bcrypt hash for `ci`"),
        (format!("ci:{}", good.replace("$04$", "$15$")), "cost 15"),
        (format!("ci:{}", good.replace("$04$", "$03$")), "cost 3"),
        (format!("ci:{good}\nci:{good}"), "line 2 has a user for the second time"),
    ] {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &text).unwrap();
        let error = Passwords::open(file.path()).unwrap_err().to_string();
        assert!(error.contains(words) && !error.contains("$2y$"), "{error}");
    }
    let error = Passwords::open(Path::new("/nonexistent/users")).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/users"), "{error}");
}
