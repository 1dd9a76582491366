//! A template as the `handlebars` crate has read it, checked and made ready to be rendered.
//!
//! One walk checks every name and every literal argument. It changes three things, so that whatever a rendering does
//! passes by our own helpers in [`super::render`]. Each call gets the number of its [`Site`] as its first argument, where
//! the rest of what is known about it stands. Named arguments, which the crate would evaluate in the order of a random
//! hash, become arguments by position, in the order of their names. What is printed, and what `each` and `with` go
//! through, becomes a call of a helper that nobody can type.

use std::collections::BTreeSet;

use handlebars::{
    Path, PathSeg, TemplateError, TemplateErrorReason,
    template::{BlockParam, HelperTemplate, Parameter, Subexpression, TemplateElement},
};
use serde_json::Value;
use serde_json_path::JsonPath;

use super::{
    BadTemplate, guard,
    library::{self, Helper, Kind},
};

/// The helper that prints a value.
pub(super) const PRINTED: &str = "a value";
/// The helper that what a block goes through is passed on by.
pub(super) const SUBJECT: &str = "a subject";

/// Names that open blocks and are no helpers.
const BLOCKS: [&str; 5] = ["if", "unless", "each", "with", "raw"];

#[derive(Debug)]
pub(super) struct Program {
    pub template: handlebars::Template,
    pub sites: Vec<Site>,
    pub uses: Uses,
    /// What it prints, if there is nothing to be evaluated.
    pub literal: Option<String>,
}

/// Which values a template reads.
#[derive(Debug, Default)]
pub(super) struct Uses {
    /// The object of all values stands somewhere as a whole.
    pub everything: bool,
    pub roots: BTreeSet<String>,
    /// `state` stands somewhere without a key.
    pub whole_state: bool,
    pub state_keys: BTreeSet<String>,
}

/// A call of a helper.
#[derive(Debug, Default)]
pub(super) struct Site {
    /// For each argument, the site of the call that it is.
    pub arguments: Vec<Option<usize>>,
    /// Of the last arguments.
    pub names: Vec<&'static str>,
    /// The JSONPath among the arguments, if it is a literal.
    pub query: Option<JsonPath>,
    pub block: Option<Subject>,
}

/// What `each` and `with` are about.
#[derive(Debug)]
pub(super) struct Subject {
    pub is_loop: bool,
    pub has_else: bool,
    /// The steps of one turn, at least.
    pub weight: usize,
}

impl Program {
    /// # Errors
    /// [`BadTemplate`]
    pub fn of(source: &str) -> Result<Self, BadTemplate> {
        if !source.contains("{{") {
            let literal = Some(source.to_owned());
            return Ok(Self {
                template: handlebars::Template::new(),
                sites: Vec::new(),
                uses: Uses::default(),
                literal,
            });
        }
        guard::check(source).map_err(|fault| {
            let (line, column) = place(source, fault.at);
            BadTemplate { line, column, reason: fault.reason }
        })?;
        let mut template = handlebars::Template::compile(source).map_err(|error| told(source, &error))?;
        let mut compiler = Compiler { line: 1, column: 1, ..Compiler::default() };
        compiler.template(&mut template)?;
        let literal = text_of(&template);
        Ok(Self { template, sites: compiler.sites, uses: compiler.uses, literal })
    }
}

#[derive(Default)]
struct Compiler {
    /// Of the tag that the walk is at, as far as the crate knows it: not of an `{{else if}}`.
    line: usize,
    column: usize,
    sites: Vec<Site>,
    /// One for each open `each` and `with`.
    scopes: Vec<Scope>,
    uses: Uses,
    /// The steps of all that was walked through.
    weight: usize,
}

struct Scope {
    names: Vec<String>,
    is_loop: bool,
}

impl Compiler {
    fn template(&mut self, template: &mut handlebars::Template) -> Result<(), BadTemplate> {
        for (index, element) in template.elements.iter_mut().enumerate() {
            if let Some(place) = template.mapping.get(index) {
                (self.line, self.column) = (place.0, place.1);
            }
            self.weight += 1;
            match element {
                TemplateElement::RawString(_) | TemplateElement::Comment(_) => {}
                TemplateElement::Expression(call) | TemplateElement::HtmlExpression(call) => {
                    self.printed(call)?;
                }
                TemplateElement::HelperBlock(block) => {
                    if let Some(raw) = self.block(block)? {
                        *element = TemplateElement::RawString(raw);
                    }
                }
                _ => return Err(self.bad("partials and decorators are not supported".to_owned())),
            }
        }
        Ok(())
    }

    /// Between braces, a lone name may be a helper.
    fn printed(&mut self, call: &mut HelperTemplate) -> Result<(), BadTemplate> {
        let name = match &call.name {
            Parameter::Name(name) => name.clone(),
            Parameter::Path(path) => raw(path).to_owned(),
            _ => return Err(self.bad("a tag begins with a name: (…) stands behind one".to_owned())),
        };
        let is_lone = call.params.is_empty() && call.hash.is_empty();
        if let Some(helper) = library::find(&name) {
            return self.call(helper, call).map(drop);
        }
        if is_lone && let Parameter::Path(path) = &mut call.name {
            self.path(path)?;
            let site = self.site(Site { arguments: vec![None], ..Site::default() });
            let path = std::mem::replace(&mut call.name, Parameter::Name(PRINTED.to_owned()));
            call.params = vec![site, path];
            return Ok(());
        }
        Err(self.bad(match BLOCKS.contains(&&*name) {
            true => format!("{name} opens a block: write {{{{#{name} …}}}}"),
            false => unknown("helper", &name, library::names()),
        }))
    }

    /// The text of a raw block, which is no block any more then.
    fn block(&mut self, block: &mut HelperTemplate) -> Result<Option<String>, BadTemplate> {
        let Parameter::Name(name) = &block.name else {
            return Err(self.bad("a block begins with a name".to_owned()));
        };
        let name = name.clone();
        if name == "raw" {
            let text = block.template.as_ref().and_then(text_of);
            let is_plain = block.params.is_empty() && block.hash.is_empty();
            return match text {
                Some(text) if is_plain => Ok(Some(text)),
                _ => Err(self.bad("raw is written {{{{raw}}}} … {{{{/raw}}}}".to_owned())),
            };
        }
        let names = match &block.block_param {
            Some(BlockParam::Single(name)) => vec![name],
            Some(BlockParam::Pair((value, key))) => vec![value, key],
            _ => vec![],
        };
        let names: Vec<_> = names.into_iter().filter_map(Parameter::as_name).map(str::to_owned).collect();
        let names_max = match &*name {
            "each" => 2,
            "with" => 1,
            _ => 0,
        };
        if names.len() > names_max {
            return Err(self.bad(match names_max {
                0 => format!("{{{{#{name}}}}} gives no names: \"as\" is for each and with"),
                _ => format!("{{{{#{name}}}}} gives one name, not {}", names.len()),
            }));
        }
        if let Some(taken) = names.iter().find(|name| library::find(name).is_some()) {
            return Err(self.bad(format!("{taken} is the name of a helper and no other's")));
        }
        if names_max == 0 {
            self.condition(&name, block)?;
        } else {
            self.scope(&name, names, block)?;
        }
        if let Some(inverse) = &mut block.inverse {
            self.template(inverse)?;
        }
        Ok(None)
    }

    fn condition(&mut self, name: &str, block: &mut HelperTemplate) -> Result<(), BadTemplate> {
        let Some(helper) = library::find_condition(name) else {
            return Err(self.bad(match library::find(name) {
                Some(_) => format!("{name} opens no block: write {{{{{name} …}}}}"),
                None => {
                    let conditions = library::conditions().map(|helper| helper.name);
                    unknown("block", name, BLOCKS.into_iter().chain(conditions))
                }
            }));
        };
        self.call(helper, block)?;
        block.template.as_mut().map_or(Ok(()), |body| self.template(body))
    }

    fn scope(
        &mut self,
        name: &str,
        names: Vec<String>,
        block: &mut HelperTemplate,
    ) -> Result<(), BadTemplate> {
        if let Some(option) = block.hash.keys().min() {
            return Err(self.bad(format!("{{{{#{name}}}}} takes no {option}=")));
        }
        let [subject] = &mut block.params[..] else {
            let count = block.params.len();
            return Err(self.bad(format!("{{{{#{name}}}}} takes one value, not {count}")));
        };
        let is_loop = name == "each";
        let argument = self.argument(subject)?;
        let has_else = block.inverse.is_some();
        let site = self.site(Site {
            arguments: vec![argument],
            block: Some(Subject { is_loop, has_else, weight: 0 }),
            ..Site::default()
        });
        let name = Parameter::Name(SUBJECT.to_owned());
        let arguments = vec![site, subject.clone()];
        *subject = Parameter::Subexpression(Subexpression::new(name, arguments, Default::default()));

        let (site, begin) = (self.sites.len() - 1, self.weight);
        // Within `with`, what a loop around it says stays known.
        let is_loop = is_loop || self.scopes.last().is_some_and(|scope| scope.is_loop);
        self.scopes.push(Scope { names, is_loop });
        block.template.as_mut().map_or(Ok(()), |body| self.template(body))?;
        self.scopes.pop();
        if let Some(subject) = &mut self.sites[site].block {
            subject.weight = 1 + self.weight - begin;
        }
        Ok(())
    }

    /// The number of the call's site.
    fn call(&mut self, helper: &'static Helper, call: &mut HelperTemplate) -> Result<usize, BadTemplate> {
        let count = call.params.len();
        if !(helper.at_least..=helper.at_most).contains(&count) {
            let mut reason = format!("expected {}, got {}", helper.usage(), values(count));
            if count == 0 && !call.block {
                reason.push_str(&format!("; a value of this name is written this.{}", helper.name));
            }
            return Err(self.bad(reason));
        }
        let mut site = Site::default();
        for (index, argument) in call.params.iter_mut().enumerate() {
            if let Parameter::Literal(value) = argument {
                let kind = helper.kind(index);
                kind.check(value).map_err(|reason| self.bad(helper.says(&reason)))?;
                if kind == Kind::Query {
                    site.query = library::query(value.as_str().unwrap_or_default()).ok();
                }
            }
            site.arguments.push(self.argument(argument)?);
        }
        let mut named: Vec<_> = std::mem::take(&mut call.hash).into_iter().collect();
        named.sort_by(|(one, _), (other, _)| one.cmp(other));
        for (name, mut argument) in named {
            let Some(&(name, kind)) = helper.named.iter().find(|(known, _)| **known == name) else {
                let reason = unknown("option", &name, helper.named.iter().map(|(name, _)| *name));
                return Err(self.bad(helper.says(&reason)));
            };
            if let Parameter::Literal(value) = &argument {
                kind.check(value).map_err(|reason| self.bad(helper.says(&reason)))?;
            }
            site.arguments.push(self.argument(&mut argument)?);
            site.names.push(name);
            call.params.push(argument);
        }
        self.rehearse(helper, count, &site, &call.params)?;
        let number = self.site(site);
        call.params.insert(0, number);
        call.name = Parameter::Name(helper.name.to_owned());
        Ok(self.sites.len() - 1)
    }

    fn rehearse(
        &self,
        helper: &Helper,
        count: usize,
        site: &Site,
        arguments: &[Parameter],
    ) -> Result<(), BadTemplate> {
        let literals: Option<Vec<&Value>> = arguments
            .iter()
            .map(|argument| match argument {
                Parameter::Literal(value) => Some(value),
                _ => None,
            })
            .collect();
        let Some(literals) = literals else { return Ok(()) };
        let (arguments, named) = literals.split_at(count);
        let named: Vec<_> = site.names.iter().copied().zip(named.iter().copied()).collect();
        library::rehearse(helper, arguments, &named, site.query.as_ref()).map_err(|reason| self.bad(reason))
    }

    /// The site of the call that `argument` is.
    fn argument(&mut self, argument: &mut Parameter) -> Result<Option<usize>, BadTemplate> {
        self.weight += 1;
        match argument {
            Parameter::Literal(_) => Ok(None),
            Parameter::Path(path) => {
                let text = raw(path);
                if library::find(text).is_some() {
                    return Err(self.bad(format!("as an argument, {text} is written ({text})")));
                }
                self.path(path).map(|()| None)
            }
            Parameter::Subexpression(Subexpression { element, .. }) => {
                let TemplateElement::Expression(call) = &mut **element else {
                    return Err(self.bad("only calls stand in parentheses".to_owned()));
                };
                let Some(name) = call.name.as_name() else {
                    return Err(self.bad("a name is missing behind (".to_owned()));
                };
                let Some(helper) = library::find(name) else {
                    return Err(self.bad(unknown("helper", name, library::names())));
                };
                self.call(helper, call).map(Some)
            }
            _ => Err(self.bad("an argument is a literal, a path or a call".to_owned())),
        }
    }

    fn path(&mut self, path: &mut Path) -> Result<(), BadTemplate> {
        if raw(path) == "@root" {
            // To the crate, it has no meaning alone.
            *path = Path::parse("@root.this").map_err(|error| self.bad(error.to_string()))?;
        }
        let (segments, text) = match path {
            Path::Relative((segments, text)) => (segments, text),
            Path::Local((up, name, text)) => return self.local(*up, name, text),
        };
        let names: Vec<_> = segments
            .iter()
            .filter_map(|segment| match segment {
                PathSeg::Named(name) => Some(&**name),
                _ => None,
            })
            .collect();
        self.weight += segments.len();
        let mut below = text.split(['.', '/']).skip_while(|name| matches!(*name, "" | "this" | "@root"));
        if below.any(|name| matches!(name, "this" | "[this]")) {
            // The crate drops it wherever it stands.
            return Err(self.bad(format!("{text}: no value is called this; write (lookup … \"this\")")));
        }
        let is_at_root = segments.iter().any(|segment| is_rule(segment, "path_root"));
        if is_at_root {
            self.read(&names);
            return Ok(());
        }
        if segments.iter().any(|segment| is_rule(segment, "path_local")) {
            return Err(self.bad(format!("there is no {text}")));
        }
        let up = segments.len() - names.len();
        if up > self.scopes.len() {
            return Err(self.bad(format!("\"{text}\" reaches beyond the outermost block")));
        }
        let is_block_name =
            |name: &&str| self.scopes.iter().flat_map(|scope| &scope.names).any(|given| given == name);
        if up == self.scopes.len() && !names.first().is_some_and(is_block_name) {
            self.read(&names);
        }
        Ok(())
    }

    /// `@index` and its like.
    fn local(&self, up: usize, name: &str, text: &str) -> Result<(), BadTemplate> {
        if !matches!(name, "index" | "key" | "first" | "last")
            || text != format!("@{}{name}", "../".repeat(up))
        {
            let reason = format!("there is no {text}: only @index, @key, @first, @last and @root");
            return Err(self.bad(reason));
        }
        if !self.scopes.iter().rev().nth(up).is_some_and(|scope| scope.is_loop) {
            return Err(self.bad(format!("{text} stands outside of {{{{#each}}}}")));
        }
        Ok(())
    }

    /// Notes a value found from the object of all values.
    fn read(&mut self, names: &[&str]) {
        let [root, below @ ..] = names else {
            self.uses.everything = true;
            return;
        };
        self.uses.roots.insert((*root).to_owned());
        match below.first() {
            Some(key) if *root == "state" => {
                self.uses.state_keys.insert((*key).to_owned());
            }
            None if *root == "state" => self.uses.whole_state = true,
            _ => {}
        }
    }

    /// As the argument that says its number.
    fn site(&mut self, site: Site) -> Parameter {
        self.sites.push(site);
        Parameter::Literal(Value::from(self.sites.len() - 1))
    }

    fn bad(&self, reason: String) -> BadTemplate {
        BadTemplate { line: self.line, column: self.column, reason }
    }
}

/// The text that a template without expressions is.
fn text_of(template: &handlebars::Template) -> Option<String> {
    let texts = template.elements.iter().map(|element| match element {
        TemplateElement::RawString(text) => Some(&**text),
        TemplateElement::Comment(_) => Some(""),
        _ => None,
    });
    texts.collect()
}

/// As it was written.
fn raw(path: &Path) -> &str {
    match path {
        Path::Relative((_, text)) | Path::Local((_, _, text)) => text,
    }
}

/// The crate keeps the type of its rules to itself, but not their names.
fn is_rule(segment: &PathSeg, name: &str) -> bool {
    matches!(segment, PathSeg::Ruled(rule) if format!("{rule:?}") == name)
}

/// What the crate says, for people.
fn told(source: &str, error: &TemplateError) -> BadTemplate {
    let (mut line, mut column) = error.pos().unwrap_or((1, 1));
    let reason = match error.reason() {
        TemplateErrorReason::MismatchingClosedHelper(open, close) => {
            format!("{{{{#{open}}}}} is open, but {{{{/{close}}}}} is closing")
        }
        TemplateErrorReason::InvalidParam(text) => {
            (line, column) = place(source, source.find(&**text).unwrap_or_default());
            format!("{text} is no value: a text knows the escapes of JSON only, and a number its form")
        }
        TemplateErrorReason::InvalidSyntax(_) => unexpected(source, at(source, line, column)),
        reason => reason.to_string(),
    };
    BadTemplate { line, column, reason }
}

/// What is to be said of a text that does not go on as it should.
fn unexpected(source: &str, at: usize) -> String {
    let (before, rest) = source.split_at(at);
    let end = rest.char_indices().nth(12).map_or(rest.len(), |(at, _)| at);
    let found = rest[..end].lines().next().unwrap_or_default();
    let mut reason = match found {
        "" => "the text ends too early".to_owned(),
        _ => format!("unexpected {found}"),
    };
    if before.trim_end().ends_with("{{") {
        reason.push_str("; braces that are no tag are written \\{{");
    }
    reason
}

/// The byte at a place.
fn at(source: &str, line: usize, column: usize) -> usize {
    let start: usize = source.split_inclusive('\n').take(line - 1).map(str::len).sum();
    let letters = source[start..].char_indices().nth(column - 1);
    letters.map_or(source.len(), |(at, _)| start + at)
}

/// Line and column of a byte, both from 1; a column is a character.
fn place(source: &str, at: usize) -> (usize, usize) {
    let before = &source[..at];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// `unknown helper "random_itn"; did you mean "random_int"?`
pub(super) fn unknown<'k>(what: &str, name: &str, known: impl Iterator<Item = &'k str>) -> String {
    let nearest = known
        .map(|known| (strsim::normalized_damerau_levenshtein(name, known), known))
        .filter(|(likeness, _)| *likeness >= 0.5)
        .max_by(|one, other| one.0.total_cmp(&other.0));
    match nearest {
        Some((_, known)) => format!("unknown {what} \"{name}\"; did you mean \"{known}\"?"),
        None => format!("unknown {what} \"{name}\""),
    }
}

fn values(count: usize) -> String {
    match count {
        0 => "nothing".to_owned(),
        1 => "1 value".to_owned(),
        _ => format!("{count} values"),
    }
}
