//! containerd's filters, as far as they are offered: `FIELD`, `FIELD==VALUE` and `FIELD!=VALUE`, joined by commas where
//! all must hold; of several filters one must (containerd `pkg/filters/filter.go`). Values may be quoted.

use tonic::Status;

use crate::export_v1::ApiError;

/// Far more than anybody writes.
const BYTES: usize = 16 << 10;

/// Some filters, of which one must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filters(Vec<Vec<Test>>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Test {
    field: String,
    condition: Condition,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Condition {
    Present,
    Equal(String),
    Unequal(String),
}

impl Filters {
    pub(crate) fn parse(texts: &[String]) -> Result<Self, Status> {
        if texts.iter().map(String::len).sum::<usize>() > BYTES {
            return Err(ApiError::field("filters", format!("longer than {BYTES} bytes")).into());
        }
        let parse = |text: &String| {
            let invalid = |what| Status::from(ApiError::field("filters", format!("`{text}`: {what}")));
            Parser(text).all().map_err(invalid)
        };
        Ok(Self(texts.iter().map(parse).collect::<Result<_, _>>()?))
    }

    /// Whether one of them holds, or there is none. `field` gives the value of a field, if there is one.
    pub(crate) fn matches(&self, field: impl Fn(&str) -> Option<String>) -> bool {
        let holds = |test: &Test| match (&test.condition, field(&test.field)) {
            (Condition::Present, value) => value.is_some(),
            (Condition::Equal(expected), value) => value.as_ref() == Some(expected),
            (Condition::Unequal(unwanted), value) => value.as_ref() != Some(unwanted),
        };
        self.0.is_empty() || self.0.iter().any(|tests| tests.iter().all(holds))
    }
}

/// What is left to be read.
struct Parser<'a>(&'a str);

impl Parser<'_> {
    fn all(mut self) -> Result<Vec<Test>, &'static str> {
        let mut tests = Vec::new();
        loop {
            tests.push(self.test()?);
            match self.0.strip_prefix(',') {
                Some(rest) => self.0 = rest,
                None if self.0.is_empty() => return Ok(tests),
                None => return Err("expected `,` or the end after a value"),
            }
        }
    }

    fn test(&mut self) -> Result<Test, &'static str> {
        let field = self.field()?;
        if self.0.starts_with("~=") {
            return Err("`~=` is not offered; expected `==`, `!=` or nothing after the field");
        }
        let condition = if let Some(rest) = self.0.strip_prefix("==") {
            self.0 = rest;
            Condition::Equal(self.word(&[','])?)
        } else if let Some(rest) = self.0.strip_prefix("!=") {
            self.0 = rest;
            Condition::Unequal(self.word(&[','])?)
        } else {
            Condition::Present
        };
        Ok(Test { field, condition })
    }

    /// Parts with dots between them; a quoted part may hold anything: `labels."a.b/c"`.
    fn field(&mut self) -> Result<String, &'static str> {
        let mut field = String::new();
        loop {
            field.push_str(&self.word(&['.', '=', '!', '~', ','])?);
            match self.0.strip_prefix('.') {
                Some(rest) => self.0 = rest,
                None if field.is_empty() => return Err("expected a field"),
                None => return Ok(field),
            }
            field.push('.');
        }
    }

    /// A quoted text, or everything up to one of `ends`.
    fn word(&mut self, ends: &[char]) -> Result<String, &'static str> {
        let Some(quoted) = self.0.strip_prefix('"') else {
            let end = self.0.find(ends).unwrap_or(self.0.len());
            let (word, rest) = self.0.split_at(end);
            self.0 = rest;
            return Ok(word.to_owned());
        };
        let mut escaped = false;
        for (at, letter) in quoted.char_indices() {
            match letter {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => {
                    self.0 = &quoted[at + 1..];
                    // containerd's quoting is Go's, which agrees with JSON on what people write.
                    let text = serde_json::from_str(&format!("\"{}\"", &quoted[..at]));
                    return text.map_err(|_| "the quoted text cannot be read");
                }
                _ => {}
            }
        }
        Err("a quote is not closed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(filters: &[&str]) -> Result<bool, String> {
        let filters: Vec<_> = filters.iter().map(|&text| text.to_owned()).collect();
        let filters = Filters::parse(&filters).map_err(|status| status.message().to_owned())?;
        Ok(filters.matches(|field| match field {
            "digest" => Some("sha256:ab".to_owned()),
            "labels.a.b/c" => Some("x,y".to_owned()),
            "labels.plain" => Some("1".to_owned()),
            _ => None,
        }))
    }

    #[test]
    fn filters_hold_as_in_containerd() {
        for (filters, expected) in [
            (&[][..], true),
            (&["digest==sha256:ab"], true),
            (&["digest!=sha256:ab"], false),
            (&["labels.plain"], true),
            (&["labels.other"], false),
            (&["labels.other!=1"], true),
            (&["labels.plain==1,digest==sha256:ab"], true),
            (&["labels.plain==1,digest==sha256:cd"], false),
            (&["labels.plain==2", "digest==sha256:ab"], true),
            (&["labels.\"a.b/c\"==\"x,y\""], true),
        ] {
            assert_eq!(matches(filters), Ok(expected), "{filters:?}");
        }
    }

    #[test]
    fn unknown_filters_are_refused() {
        for (filter, why) in
            [("", "a field"), ("a~=b", "not offered"), ("\"a", "not closed"), ("a==\"b\"c", "expected `,`")]
        {
            assert!(matches(&[filter]).unwrap_err().contains(why), "{filter}");
        }
        assert!(matches(&[&"x".repeat(BYTES + 1)]).unwrap_err().contains("longer"));
    }
}
