//! What a text must keep to before the `handlebars` crate may read it.
//!
//! The crate's parser calls itself for each block and parenthesis, and looks at the whole text for each tag, both
//! without a limit. Here tags are skimmed, just far enough to know where each ends; where the crate might see another
//! end, the text is refused.

/// Parentheses, lists and objects within each other. A parser that is not optimised takes 10 KiB of stack for each.
const NESTING_MAX: usize = 32;
/// Blocks within each other; an `{{else if}}` is within the one before.
const BLOCKS_MAX: usize = 64;
/// Bytes of a text with tags.
const LEN_MAX: usize = 4 << 20;
/// Tags times bytes: half a second.
const WORK_MAX: usize = 1 << 29;

/// What the crate skips within a tag.
const WHITE: [char; 4] = [' ', '\t', '\n', '\r'];

/// What is wrong, at which byte of the text.
#[derive(Debug)]
pub(super) struct Fault {
    pub at: usize,
    pub reason: String,
}

/// # Errors
/// The first [`Fault`].
pub(super) fn check(source: &str) -> Result<(), Fault> {
    let tags = source.matches("{{").count();
    if tags > 0 && source.len() > LEN_MAX {
        return Err(Fault { at: 0, reason: format!("a template has at most {} MiB", LEN_MAX >> 20) });
    }
    Skimmer { source, at: 0, blocks: Vec::new() }.skim()?;
    if tags.saturating_mul(source.len()) > WORK_MAX {
        let reason = format!("{tags} tags are too many for a template of {} bytes", source.len());
        return Err(Fault { at: 0, reason });
    }
    Ok(())
}

struct Skimmer<'s> {
    source: &'s str,
    at: usize,
    blocks: Vec<Block>,
}

/// One that is open.
struct Block {
    start: usize,
    /// One, and one more for each `{{else if}}`.
    levels: usize,
}

impl<'s> Skimmer<'s> {
    fn skim(mut self) -> Result<(), Fault> {
        while self.skip_text("{{") {
            let start = self.at;
            if self.rest().starts_with("{{{{") {
                self.raw_block(start)?;
            } else if self.rest().starts_with("{{!") {
                self.comment(start)?;
            } else {
                self.at += "{{".len();
                self.tag(start)?;
            }
        }
        self.blocks.pop().map_or(Ok(()), |block| Err(unclosed(block.start, "the block")))
    }

    /// Goes to the next `braces`; `false` if there are none. One backslash makes text of those behind it.
    fn skip_text(&mut self, braces: &str) -> bool {
        while let Some(found) = self.rest().find("{{") {
            let before = &self.rest()[..found];
            let backslashes = before.len() - before.trim_end_matches('\\').len();
            self.at += found;
            if backslashes == 1 {
                self.at += if self.rest().starts_with("{{{{") { 4 } else { 2 };
            } else if self.rest().starts_with(braces) {
                return true;
            } else {
                self.at += 1;
            }
        }
        false
    }

    fn raw_block(&mut self, start: usize) -> Result<(), Fault> {
        self.at += "{{{{".len();
        self.skip_tag(start)?;
        if !self.skip_text("{{{{") {
            return Err(unclosed(start, "the block"));
        }
        self.at += "{{{{".len();
        self.skip_tag(start)
    }

    /// `{{! … }}`, or `{{!-- … --}}`: looking for an end that is missing takes the crate long.
    fn comment(&mut self, start: usize) -> Result<(), Fault> {
        self.at += "{{!".len();
        let inside = self.rest();
        let end = match inside.trim_start_matches(WHITE).strip_prefix("--") {
            Some(dashed) => dashed.find("--}}").map(|end| inside.len() - dashed.len() + end + "--}}".len()),
            None => inside.find("}}").map(|end| end + "}}".len()),
        };
        self.at += end.ok_or_else(|| unclosed(start, "the comment"))?;
        Ok(())
    }

    fn tag(&mut self, start: usize) -> Result<(), Fault> {
        let inside = self.rest().trim_start_matches(WHITE).trim_start_matches('~').trim_start_matches(WHITE);
        let (sign, behind) = match inside.strip_prefix("else") {
            Some(behind) => ('^', behind),
            None => {
                let sign = inside.chars().next().unwrap_or_default();
                (sign, &inside[sign.len_utf8().min(inside.len())..])
            }
        };
        let behind = behind.trim_start_matches(WHITE);
        let refused = |reason: &str| Err(Fault { at: start, reason: reason.to_owned() });
        match sign {
            '>' => return refused("partials ({{> …}}) are not supported"),
            '*' => return refused("decorators ({{* …}}) are not supported"),
            '#' if behind.starts_with('>') => return refused("partials ({{#> …}}) are not supported"),
            '#' if behind.starts_with('*') => return refused("inline partials ({{#* …}}) are not supported"),
            '#' => self.blocks.push(Block { start, levels: 1 }),
            '^' => match self.blocks.last_mut() {
                Some(block) => block.levels += usize::from(!behind.starts_with(['}', '~'])),
                None => {
                    return refused(
                        "{{else}} stands in no block; a name that begins so is written {{this.else…}}",
                    );
                }
            },
            '/' => match self.blocks.pop() {
                Some(_) => {}
                None => return refused("there is no open block to be closed"),
            },
            _ => {}
        }
        if self.blocks.iter().map(|block| block.levels).sum::<usize>() > BLOCKS_MAX {
            let reason = format!("more than {BLOCKS_MAX} blocks within each other");
            return Err(Fault { at: start, reason });
        }
        self.skip_tag(start)
    }

    /// Goes behind the `}}` that ends a tag. No `{{` may stand in one, so that wherever the crate sees its end, both see
    /// the same tags after it.
    fn skip_tag(&mut self, start: usize) -> Result<(), Fault> {
        let inside = self.at;
        let (mut depth, mut braces) = (0usize, 0usize);
        while braces > 0 || !self.rest().starts_with("}}") {
            let Some(letter) = self.rest().chars().next() else { return Err(unclosed(start, "the tag")) };
            match letter {
                '(' => depth += 1,
                ')' => depth = depth.saturating_sub(1),
                '{' => braces += 1,
                '}' => braces = braces.saturating_sub(1),
                _ => {}
            }
            if depth + braces > NESTING_MAX {
                return Err(too_deep(self.at));
            }
            self.at = match letter {
                '"' | '\'' => self.string_end(self.at).ok_or_else(|| unclosed(self.at, "the text"))?,
                '[' => self.bracket_end(depth + braces)?,
                _ => self.at + letter.len_utf8(),
            };
        }
        if let Some(found) = self.source[inside..self.at].find("{{") {
            let reason = "{{ within a tag: either }} is missing before it, or it belongs to a text and is written {\\u007b";
            return Err(Fault { at: inside + found, reason: reason.to_owned() });
        }
        self.at += "}}".len();
        Ok(())
    }

    /// The end of a list, or of a name in brackets, which is anything up to the first that closes.
    fn bracket_end(&self, depth: usize) -> Result<usize, Fault> {
        let before = &self.source[..self.at];
        let Some(found) = self.rest().find(']') else { return Err(unclosed(self.at, "the bracket")) };
        let name_end = self.at + found + 1;
        let list_end = self.literal_end(self.at, depth)?.unwrap_or(name_end);
        let is_name = before.ends_with(['.', '/', '@'])
            || before.trim_end_matches(WHITE).ends_with(['{', '~', '&', '(']);
        if list_end == name_end || !is_name {
            return Ok(list_end);
        }
        if before.trim_end_matches('.').ends_with(|letter: char| letter.is_ascii_digit()) {
            let reason = "a space is missing before the list".to_owned();
            return Err(Fault { at: self.at, reason });
        }
        Ok(name_end)
    }

    /// Of a literal as the crate takes them; `None` if there is none at `start`.
    fn literal_end(&self, start: usize, depth: usize) -> Result<Option<usize>, Fault> {
        let bytes = self.source.as_bytes();
        let (close, is_object) = match bytes.get(start) {
            Some(b'"' | b'\'') => return Ok(self.string_end(start)),
            Some(b'[') => (b']', false),
            Some(b'{') => (b'}', true),
            _ => return Ok(word_end(self.source, start)),
        };
        if depth == NESTING_MAX {
            return Err(too_deep(start));
        }
        let mut at = self.skip_white(start + 1);
        let mut is_due = bytes.get(at).is_some_and(|byte| *byte != close && *byte != b',');
        loop {
            if is_due {
                if is_object {
                    let colon = self.string_end(at).map(|end| self.skip_white(end));
                    let Some(colon) = colon.filter(|at| bytes.get(*at) == Some(&b':')) else {
                        return Ok(None);
                    };
                    at = self.skip_white(colon + 1);
                }
                let Some(end) = self.literal_end(at, depth + 1)? else { return Ok(None) };
                at = self.skip_white(end);
            }
            match bytes.get(at) {
                Some(b',') => at = self.skip_white(at + 1),
                Some(byte) if *byte == close => return Ok(Some(at + 1)),
                _ => return Ok(None),
            }
            is_due = true;
        }
    }

    /// Behind the quote that closes; `None` if no text begins at `start`, or it never ends.
    fn string_end(&self, start: usize) -> Option<usize> {
        let quote = *self.source.as_bytes().get(start).filter(|byte| matches!(byte, b'"' | b'\''))?;
        let mut is_escaped = false;
        for (at, &byte) in self.source.as_bytes()[start + 1..].iter().enumerate() {
            match byte {
                _ if is_escaped => is_escaped = false,
                b'\\' => is_escaped = true,
                byte if byte == quote => return Some(start + at + 2),
                _ => {}
            }
        }
        None
    }

    fn skip_white(&self, at: usize) -> usize {
        self.source.len() - self.source[at..].trim_start_matches(WHITE).len()
    }

    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }
}

/// Of a number, `true`, `false` or `null`.
fn word_end(source: &str, start: usize) -> Option<usize> {
    let is_part = |letter: char| letter.is_alphanumeric() || matches!(letter, '-' | '_' | '$' | ':' | '.');
    let rest = source.get(start..)?;
    let word = &rest[..rest.find(|letter| !is_part(letter)).unwrap_or(rest.len())];
    let is_number = word.starts_with(|letter: char| letter == '-' || letter.is_ascii_digit())
        && word.chars().all(|letter| letter.is_ascii_digit() || matches!(letter, '-' | '.' | 'E'));
    (is_number || matches!(word, "true" | "false" | "null")).then_some(start + word.len())
}

fn unclosed(at: usize, what: &str) -> Fault {
    Fault { at, reason: format!("{what} is never closed") }
}

fn too_deep(at: usize) -> Fault {
    Fault { at, reason: format!("more than {NESTING_MAX} levels of nesting") }
}
