//! Pages of lists.
//!
//! A token is the key of the last item that was sent: an item that comes or goes between two pages shifts no other, and a
//! token outlives a restart.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use prost::Message;

use super::ControlError;

const SIZE_DEFAULT: u32 = 100;
const SIZE_MAX: u32 = 1000;

/// Encoded bytes of a page's items: below the 4 MiB that gRPC clients take unless told otherwise, with room for the token and
/// whatever else an answer says.
pub const BYTES_MAX: usize = 3 << 20;

/// What is wrong with a token that another list gave, or none.
pub const NO_TOKEN: &str = "is no token of this list";

/// Which page is asked for.
#[derive(Debug)]
pub struct PageRequest {
    list: &'static str,
    size: usize,
    after: Option<String>,
}

/// Items of a page.
#[derive(Debug, PartialEq)]
pub struct Page<M> {
    pub items: Vec<M>,
    /// Empty on the last page.
    pub next: String,
    /// Items on all pages together.
    pub total: u64,
}

/// A page in the making: at most so many items, of so many bytes together, but one at least.
pub struct Filling<M> {
    items: Vec<M>,
    size: usize,
    bytes: usize,
}

impl PageRequest {
    /// A page of `list`, whose tokens no other takes.
    ///
    /// # Errors
    /// `page_token: …` for a token that is not of this list.
    pub fn new(list: &'static str, size: u32, token: &str) -> Result<Self, ControlError> {
        let size = if size == 0 { SIZE_DEFAULT } else { size.min(SIZE_MAX) } as usize;
        let after = match token {
            "" => None,
            token => {
                Some(key_of(list, token).ok_or_else(|| ControlError::bad_field("page_token", NO_TOKEN))?)
            }
        };
        Ok(Self { list, size, after })
    }

    pub fn size(&self) -> usize {
        self.size
    }

    /// The key behind which the page begins.
    pub fn after(&self) -> Option<&str> {
        self.after.as_deref()
    }

    /// The token of the page behind `key`.
    pub fn token(&self, key: &str) -> String {
        let mut bytes = checksum(self.list, key.as_bytes()).to_vec();
        bytes.extend_from_slice(key.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The page, with nothing on it yet.
    pub fn begin<M: Message>(&self) -> Filling<M> {
        Filling::new(self.size)
    }

    /// Cuts the page out of `items` that have no keys, in their order: the token counts.
    pub fn cut_in_order<T, M: Message>(&self, items: Vec<T>, shown: impl Fn(T) -> M) -> Page<M> {
        let numbered: Vec<(usize, T)> = items.into_iter().enumerate().collect();
        self.cut(numbered, |(position, _)| format!("{position:010}"), |(_, item)| shown(item))
    }

    /// Cuts the page out of `items`, ordered by `key`, as they are `shown`.
    pub fn cut<T, M: Message>(
        &self,
        mut items: Vec<T>,
        key: impl Fn(&T) -> String,
        shown: impl Fn(T) -> M,
    ) -> Page<M> {
        items.sort_by_cached_key(&key);
        let total = items.len() as u64;
        let start = match &self.after {
            Some(after) => items.partition_point(|item| key(item) <= *after),
            None => 0,
        };
        let (mut page, mut last) = (self.begin(), String::new());
        for item in items.into_iter().skip(start) {
            let key = key(&item);
            if page.is_full() || !page.take(shown(item)) {
                return Page { items: page.items, next: self.token(&last), total };
            }
            last = key;
        }
        Page { items: page.items, next: String::new(), total }
    }
}

impl<M: Message> Filling<M> {
    pub fn new(size: usize) -> Self {
        Self { items: Vec::new(), size, bytes: 0 }
    }

    /// Whether it has as many items as it may have.
    fn is_full(&self) -> bool {
        self.items.len() >= self.size
    }

    /// Takes an item, unless it is too much; whether it did.
    pub fn take(&mut self, item: M) -> bool {
        let len = item.encoded_len();
        // The field's number and the length stand before it.
        let bytes = self.bytes + 1 + prost::length_delimiter_len(len) + len;
        if self.is_full() || (bytes > BYTES_MAX && !self.items.is_empty()) {
            return false;
        }
        self.bytes = bytes;
        self.items.push(item);
        true
    }

    pub fn last(&self) -> Option<&M> {
        self.items.last()
    }

    pub fn into_items(self) -> Vec<M> {
        self.items
    }
}

/// A token's key, behind its checksum: what people type by mistake is none.
fn key_of(list: &str, token: &str) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let (sum, key) = bytes.split_first_chunk()?;
    (checksum(list, key) == *sum).then(|| String::from_utf8(key.to_vec()).ok())?
}

fn checksum(list: &str, key: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(list.as_bytes());
    // Which ends the name: it is in no list's.
    hasher.update(&[0]);
    hasher.update(key);
    hasher.finalize().to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(size: u32, token: &str, items: &[&str]) -> Page<String> {
        let items = items.iter().map(|&item| item.to_owned()).collect();
        PageRequest::new("letters", size, token).unwrap().cut(items, String::clone, |item| item)
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
        let others = PageRequest::new("digits", 0, "").unwrap().token("a");
        for token in ["§", "abcd", "0000000010", "YQ", &others] {
            let error = PageRequest::new("letters", 0, token).unwrap_err();
            assert_eq!(error.to_string(), "page_token: is no token of this list");
        }
    }

    #[test]
    fn a_page_ends_before_it_is_too_long_for_a_client_but_has_one_item() {
        let half = BYTES_MAX / 2;
        let long = |letter: char, len: usize| letter.to_string().repeat(len);
        let items = [long('a', half), long('b', half), long('c', 2 * BYTES_MAX), long('d', 1)];
        let items: Vec<&str> = items.iter().map(String::as_str).collect();
        let (mut token, mut letters) = (String::new(), Vec::new());
        loop {
            let page = page(0, &token, &items);
            letters.push(page.items.iter().map(|item| &item[..1]).collect::<String>());
            token = page.next;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(letters, ["a", "b", "c", "d"]);
    }
}
