//! What is shown in the place of values that let somebody in somewhere.

use super::WebhookSpec;

/// Stands for a value that is not shown.
pub const MASK: &str = "********";

/// What names of such values have in them, whatever their case.
const SECRET: [&str; 8] = ["auth", "cookie", "token", "secret", "key", "pass", "sig", "credential"];

/// Whether a header, or a parameter of a URL, of this name is not shown.
pub fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET.iter().any(|part| name.contains(part))
}

/// A URL, or a template of one, with the parameters masked that are not shown.
pub fn masked_url(url: &str) -> String {
    let url = map_parameters(url, |name, value| if is_secret_name(name) { MASK } else { value });
    let credentials = || {
        let (scheme, rest) = url.split_once("://")?;
        let authority = rest.split(['/', '?', '#']).next()?;
        let (credentials, _) = authority.rsplit_once('@')?;
        Some(format!("{scheme}://{MASK}{}", &rest[credentials.len()..]))
    };
    credentials().unwrap_or(url)
}

impl WebhookSpec {
    /// As it is shown to people. Its secret stays.
    pub fn masked(&self) -> Self {
        let mut shown = self.clone();
        shown.url = masked_url(&self.url);
        for (name, value) in &mut shown.headers {
            if is_secret_name(name) {
                MASK.clone_into(value);
            }
        }
        shown
    }

    /// Puts the values of `before` in the place of masks, and its secret where there is none.
    pub fn unmask(&mut self, before: &Self) {
        if self.secret.as_ref().is_none_or(|secret| secret.0 == MASK) {
            self.secret.clone_from(&before.secret);
        }
        for (name, value) in self.headers.iter_mut().filter(|(name, value)| is_masked(name, value)) {
            let mut known = before.headers.iter();
            if let Some((_, kept)) = known.find(|(known, _)| known.eq_ignore_ascii_case(name)) {
                value.clone_from(kept);
            }
        }
        self.url = map_parameters(&self.url, |name, value| match is_masked(name, value) {
            true => parameters(&before.url).find(|(known, _)| *known == name).map_or(value, |(_, kept)| kept),
            false => value,
        });
    }
}

/// Whether this is what is shown of a value, and not the value.
pub(super) fn is_masked(name: &str, value: &str) -> bool {
    value == MASK && is_secret_name(name)
}

/// Names and values of what stands after the question mark.
pub(super) fn parameters(url: &str) -> impl Iterator<Item = (&str, &str)> {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    query.split('&').filter_map(|parameter| parameter.split_once('='))
}

fn map_parameters<'u>(url: &'u str, change: impl Fn(&'u str, &'u str) -> &'u str) -> String {
    let Some((start, query)) = url.split_once('?') else { return url.to_owned() };
    let changed = query.split('&').map(|parameter| match parameter.split_once('=') {
        Some((name, value)) => format!("{name}={}", change(name, value)),
        None => parameter.to_owned(),
    });
    format!("{start}?{}", changed.collect::<Vec<_>>().join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webhook::Secret;

    fn spec(url: &str, headers: &[(&str, &str)]) -> WebhookSpec {
        let headers = headers.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        WebhookSpec { url: url.to_owned(), headers, ..WebhookSpec::default() }
    }

    #[test]
    fn names_tell_what_is_not_shown() {
        for name in
            ["Authorization", "Proxy-Authorization", "cookie", "X-API-Key", "access_token", "PASSWORD"]
        {
            assert!(is_secret_name(name), "{name}");
        }
        for name in ["X-Source", "Content-Type", "device"] {
            assert!(!is_secret_name(name), "{name}");
        }
        assert_eq!(
            masked_url("http://h/x?a=1&Token=t0&b&key="),
            "http://h/x?a=1&Token=********&b&key=********"
        );
        assert_eq!(masked_url("http://h/x"), "http://h/x");
        assert_eq!(masked_url("http://me:t0@h/x?key=t0"), "http://********@h/x?key=********");
        assert_eq!(masked_url("http://h/a@b?c=d@e"), "http://h/a@b?c=d@e");
    }

    #[test]
    fn what_was_masked_comes_back_where_it_was() {
        let before = WebhookSpec {
            secret: Some(Secret("s".to_owned())),
            ..spec("http://h/?token=t0&a=1", &[("Authorization", "Bearer t0"), ("X-A", "1"), ("X-Key", "k")])
        };
        let mut back = before.masked();
        assert_eq!((&*back.headers["Authorization"], &*back.headers["X-A"]), (MASK, "1"));
        back.secret = None;
        back.unmask(&before);
        assert_eq!(back, before);

        let mut changed =
            spec("http://other/?a=2&token=********", &[("authorization", MASK), ("X-Key", "new")]);
        changed.unmask(&before);
        assert_eq!(changed.url, "http://other/?a=2&token=t0");
        assert_eq!((&*changed.headers["authorization"], &*changed.headers["X-Key"]), ("Bearer t0", "new"));
    }
}
