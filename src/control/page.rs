//! Pages of lists.
//!
//! A token is the key of the last item that was sent: an item that comes or goes between two pages shifts no other, and a
//! token outlives a restart.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::ControlError;

const SIZE_DEFAULT: u32 = 100;
const SIZE_MAX: u32 = 1000;

/// Which page is asked for.
#[derive(Debug)]
pub struct PageRequest {
    size: usize,
    after: Option<String>,
}

/// Items of a page.
#[derive(Debug, PartialEq)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Empty on the last page.
    pub next: String,
    /// Items on all pages together.
    pub total: u64,
}

impl PageRequest {
    /// # Errors
    /// `page_token: …` for a token that is not ours.
    pub fn new(size: u32, token: &str) -> Result<Self, ControlError> {
        let size = if size == 0 { SIZE_DEFAULT } else { size.min(SIZE_MAX) } as usize;
        let after = match token {
            "" => None,
            token => Some(
                key_of(token)
                    .ok_or_else(|| ControlError::bad_field("page_token", "is no token of this list"))?,
            ),
        };
        Ok(Self { size, after })
    }

    pub fn size(&self) -> usize {
        self.size
    }

    /// The key behind which the page begins.
    pub fn after(&self) -> Option<&str> {
        self.after.as_deref()
    }

    /// The token of the page behind `key`.
    pub fn token(key: &str) -> String {
        let mut bytes = crc32fast::hash(key.as_bytes()).to_be_bytes().to_vec();
        bytes.extend_from_slice(key.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Cuts the page out of `items` that have no keys, in their order: the token counts.
    pub fn cut_in_order<T>(&self, items: Vec<T>) -> Page<T> {
        let page =
            self.cut(items.into_iter().enumerate().collect(), |(position, _)| format!("{position:010}"));
        Page {
            items: page.items.into_iter().map(|(_, item)| item).collect(),
            next: page.next,
            total: page.total,
        }
    }

    /// Cuts the page out of `items`, ordered by `key`.
    pub fn cut<T>(&self, mut items: Vec<T>, key: impl Fn(&T) -> String) -> Page<T> {
        items.sort_by_cached_key(&key);
        let total = items.len() as u64;
        let start = match &self.after {
            Some(after) => items.partition_point(|item| key(item) <= *after),
            None => 0,
        };
        let more = items.len() - start > self.size;
        let items: Vec<_> = items.into_iter().skip(start).take(self.size).collect();
        let next = match items.last() {
            Some(last) if more => Self::token(&key(last)),
            _ => String::new(),
        };
        Page { items, next, total }
    }
}

/// A token's key, behind its checksum: what people type by mistake is none.
fn key_of(token: &str) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let (sum, key) = bytes.split_first_chunk()?;
    (crc32fast::hash(key).to_be_bytes() == *sum).then(|| String::from_utf8(key.to_vec()).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(size: u32, token: &str, items: &[&str]) -> Page<String> {
        let items = items.iter().map(|&item| item.to_owned()).collect();
        PageRequest::new(size, token).unwrap().cut(items, String::clone)
    }

    #[test]
    fn pages_follow_each_other_though_items_come_and_go() {
        let first = page(2, "", &["c", "a", "b"]);
        assert_eq!((first.items, first.total), (vec!["a".to_owned(), "b".to_owned()], 3));
        let second = page(2, &first.next, &["a", "aa", "c"]);
        assert_eq!(second, Page { items: vec!["c".to_owned()], next: String::new(), total: 3 });
    }

    #[test]
    fn a_list_that_fits_has_one_page() {
        assert_eq!(page(0, "", &["a", "b"]).next, "");
        assert_eq!(page(2, "", &["a", "b"]).next, "");
    }

    #[test]
    fn a_foreign_token_is_a_bad_field() {
        for token in ["§", "abcd", "0000000010", "YQ"] {
            let error = PageRequest::new(0, token).unwrap_err();
            assert_eq!(error.to_string(), "page_token: is no token of this list");
        }
    }
}
