//! What the answer to a request means, and how long to wait before the next one.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};

use super::Webhook;
use crate::draws::Draws;

/// Waits are drawn from one fifth less to one fifth more, so that what failed together is not tried again together.
const JITTER: f64 = 0.2;

/// Characters of a `Location` that an error has room for.
const LOCATION_SHOWN: usize = 200;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Delivered,
    /// The receiver may think otherwise later.
    Retry {
        why: String,
        /// What it asked for.
        after: Option<Duration>,
    },
    /// It would say the same again.
    GiveUp(String),
}

pub fn judge(status: StatusCode, headers: &HeaderMap) -> Verdict {
    if status.is_success() {
        return Verdict::Delivered;
    }
    let why = match headers.get(header::LOCATION) {
        Some(location) if status.is_redirection() => {
            let location: String =
                String::from_utf8_lossy(location.as_bytes()).chars().take(LOCATION_SHOWN).collect();
            format!("answered {status}: redirects are not followed, this one points to {location}")
        }
        _ => format!("answered {status}"),
    };
    match status.as_u16() {
        408 | 425 | 429 | 500.. => Verdict::Retry { why, after: retry_after(headers) },
        _ => Verdict::GiveUp(why),
    }
}

/// In seconds; the other form, a date, would depend on two clocks.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// How long to wait once `failed` attempts failed, from 1. The receiver may ask for longer, but not for longer than the
/// longest wait.
pub fn retry_wait(webhook: &Webhook, failed: u32, after: Option<Duration>, draws: &mut Draws) -> Duration {
    let max = webhook.backoff_max();
    let doubled = webhook.backoff().saturating_mul(1 << (failed.max(1) - 1).min(31));
    let jitter = 1.0 + JITTER * (2.0 * draws.fraction() - 1.0);
    let wait = doubled.min(max).mul_f64(jitter);
    wait.max(after.unwrap_or_default()).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webhook::WebhookSpec;

    fn headers(name: header::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, header::HeaderValue::from_static(value))])
    }

    fn verdict(status: u16) -> Verdict {
        judge(StatusCode::from_u16(status).expect("a status"), &HeaderMap::new())
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        for status in [200, 201, 202, 204, 299] {
            assert_eq!(verdict(status), Verdict::Delivered);
        }
        for status in [408, 425, 429, 500, 501, 503, 504, 599, 600] {
            assert!(matches!(verdict(status), Verdict::Retry { after: None, .. }), "{status}");
        }
        for status in [300, 304, 400, 401, 404, 410, 413, 422] {
            assert!(matches!(verdict(status), Verdict::GiveUp(_)), "{status}");
        }
        assert_eq!(verdict(404), Verdict::GiveUp("answered 404 Not Found".to_owned()));
    }

    #[test]
    fn a_redirect_says_where_it_points() {
        let Verdict::GiveUp(why) = judge(StatusCode::FOUND, &headers(header::LOCATION, "http://other/"))
        else {
            panic!("a redirect is not followed");
        };
        assert_eq!(why, "answered 302 Found: redirects are not followed, this one points to http://other/");
    }

    #[test]
    fn waits_double_up_to_the_longest_and_are_drawn_a_fifth_up_or_down() {
        let spec = WebhookSpec {
            id: "h".to_owned(),
            topic: "a".to_owned(),
            url: "http://h".to_owned(),
            backoff_ms: 100,
            backoff_max_ms: 1000,
            ..WebhookSpec::default()
        };
        let webhook = Webhook::new(spec, &|_| Err("no file".to_owned())).expect("a good spec");
        let mut draws = Draws::new(1);
        let mut seen = Vec::new();
        for _ in 0..100 {
            for (failed, usual) in [(1, 100.0), (2, 200.0), (4, 800.0), (5, 1000.0), (100, 1000.0)] {
                let ms = retry_wait(&webhook, failed, None, &mut draws).as_secs_f64() * 1000.0;
                assert!((usual * 0.8..=f64::min(usual * 1.2, 1000.0)).contains(&ms), "{failed}: {ms}");
                seen.push(ms);
            }
        }
        assert!(seen.iter().any(|&ms| ms < 90.0) && seen.iter().any(|&ms| (110.0..=120.0).contains(&ms)));
        let asked = |seconds| retry_wait(&webhook, 1, Some(Duration::from_secs(seconds)), &mut Draws::new(1));
        assert_eq!(asked(3600), Duration::from_secs(1));
        assert!(asked(0) < Duration::from_millis(121));
    }

    #[test]
    fn a_receiver_asks_for_time_in_seconds() {
        let after = |value| match judge(StatusCode::SERVICE_UNAVAILABLE, &headers(header::RETRY_AFTER, value))
        {
            Verdict::Retry { after, .. } => after,
            other => panic!("{other:?}"),
        };
        assert_eq!(after("120"), Some(Duration::from_secs(120)));
        assert_eq!(after("Wed, 21 Oct 2026 07:28:00 GMT"), None);
        assert_eq!(after("-1"), None);
    }
}
