//! The query of a request, and its page.

use super::refusal::{Code, Refusal};

/// The most entries of a page.
pub(super) const MAX_PAGE: usize = 1000;

/// The first value of `key`, decoded.
pub(super) fn value(query: Option<&str>, key: &str) -> Option<String> {
    let mut pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    pairs.find(|(name, _)| name == key).map(|(_, value)| value.into_owned())
}

/// All values of `key`, decoded.
pub(super) fn values(query: Option<&str>, key: &str) -> Vec<String> {
    let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    pairs.filter(|(name, _)| name == key).map(|(_, value)| value.into_owned()).collect()
}

/// `text` as the value of a key of a query.
pub(super) fn encode(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// Which entries of a list are requested.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PageQuery {
    /// How many at most.
    pub(super) limit: usize,
    /// The entry after which they begin.
    pub(super) last: Option<String>,
}

impl PageQuery {
    pub(super) fn of(query: Option<&str>) -> Result<Self, Refusal> {
        let limit = match value(query, "n") {
            None => MAX_PAGE,
            Some(text) => {
                let is_number = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
                let refused = || {
                    let shown: String = text.chars().take(32).collect();
                    Refusal::bad(Code::PaginationNumberInvalid, "`n` must be a number of entries").about("n", shown)
                };
                if !is_number {
                    return Err(refused());
                }
                // A number that is too large for any list is as good as the most.
                text.parse().unwrap_or(MAX_PAGE).min(MAX_PAGE)
            }
        };
        Ok(Self { limit, last: value(query, "last").filter(|last| !last.is_empty()) })
    }

    /// The value of `Link` that leads to the page after `last` (RFC 8288); `more` are further parameters, encoded.
    pub(super) fn link(&self, path: &str, last: &str, more: &str) -> String {
        format!("<{path}?n={}&last={}{more}>; rel=\"next\"", self.limit, encode(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded() {
        let query = Some("a=1&ns=registry%3A5000&b=x+y&a=2&c");
        assert_eq!(value(query, "a").as_deref(), Some("1"));
        assert_eq!(value(query, "ns").as_deref(), Some("registry:5000"));
        assert_eq!(value(query, "c").as_deref(), Some(""));
        assert_eq!((value(query, "d"), value(None, "a")), (None, None));
        assert_eq!((values(query, "a"), values(query, "d")), (vec!["1".to_owned(), "2".to_owned()], Vec::new()));
        let text = "a b&c=ü%";
        assert_eq!(value(Some(&format!("k={}", encode(text))), "k").as_deref(), Some(text));
    }

    #[test]
    fn a_page_has_a_limit_whatever_was_requested() {
        let limit = |query| PageQuery::of(Some(query)).map(|page| page.limit).ok();
        for (query, expected) in [
            ("", Some(MAX_PAGE)),
            ("n=0", Some(0)),
            ("n=7", Some(7)),
            ("n=1000000000", Some(MAX_PAGE)),
            ("n=99999999999999999999999", Some(MAX_PAGE)),
            ("n=-1", None),
            ("n=+1", None),
            ("n=", None),
            ("n=x", None),
        ] {
            assert_eq!(limit(query), expected, "{query}");
        }
        let page = PageQuery::of(Some("n=2&last=b")).unwrap();
        assert_eq!(page, PageQuery { limit: 2, last: Some("b".to_owned()) });
        assert_eq!(page.link("/v2/a/tags/list", "c", ""), "</v2/a/tags/list?n=2&last=c>; rel=\"next\"");
    }
}
