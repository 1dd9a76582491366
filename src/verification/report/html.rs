//! One page that needs nothing else: no script, no style sheet, no image from elsewhere.

use std::{
    collections::BTreeSet,
    fmt::{self, Write},
    time::Duration,
};

use super::Heading;
use crate::{
    verification::{Change, Difference, DifferenceKind, Told, Verdict},
    xml::Escaped,
};

/// Columns of the timeline.
const COLUMNS: usize = 120;
/// Height of its bars, in the same units.
const HEIGHT: f64 = 40.0;
/// Places on which differences are marked.
const MARKS: usize = 1000;
/// Differences that are unfolded.
const UNFOLDED: usize = 100;
/// Rows of the table of sessions.
const SESSIONS: usize = 500;

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c2430; --paper: #fff; --muted: #5b6675; --line: #d9dee5; --soft: #f4f6f8; --good: #1a7f45; --bad: #c4302b; --bar: #7b93b5;
  --del: #fde3e1; --ins: #dcf3e3; --missing: #c4302b; --unexpected: #b35c00; --changed: #6b46c1; --moved: #0b6e99; --duplicate: #8a6d00; --count: #c4302b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --paper: #14181e; --muted: #97a3b3; --line: #2d3541; --soft: #1c222b; --good: #2f9e5f; --bad: #e0524c; --bar: #5f7da6;
  --del: #4a2224; --ins: #1b3d2a; --missing: #ff7b74; --unexpected: #f0a04b; --changed: #b59bff; --moved: #5cbfe8; --duplicate: #d9bd4a; --count: #ff7b74; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 72rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
header { display: flex; flex-wrap: wrap; align-items: center; gap: .3rem .8rem; }
h1 { font-size: 1.4rem; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 1.05rem; margin: 2rem 0 .6rem; } p { margin: .4rem 0; }
.verdict { padding: .1rem .8rem; border-radius: 1rem; color: #fff; font-weight: 600; } .passed { background: var(--good); } .failed { background: var(--bad); }
.muted { color: var(--muted); } .note { color: var(--muted); overflow-wrap: anywhere; }
dl { display: flex; flex-wrap: wrap; gap: .5rem; margin: 1rem 0; } dl div { flex: 1 0 6.5rem; border: 1px solid var(--line); border-radius: .5rem; padding: .4rem .7rem; }
dt { font-size: .8rem; color: var(--muted); } dd { margin: 0; font-size: 1.25rem; font-variant-numeric: tabular-nums; }
.kind { font-weight: 600; } .missing { color: var(--missing); fill: var(--missing); } .unexpected { color: var(--unexpected); fill: var(--unexpected); } .changed { color: var(--changed); fill: var(--changed); }
.moved { color: var(--moved); fill: var(--moved); } .duplicate { color: var(--duplicate); fill: var(--duplicate); } .count { color: var(--count); fill: var(--count); }
figure { margin: .6rem 0; } figcaption { display: flex; justify-content: space-between; gap: 1rem; font-size: .85rem; }
svg { display: block; width: 100%; } .bars { height: 3.2rem; background: var(--soft); fill: var(--bar); } .marks { height: .8rem; border-top: 1px solid var(--line); }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; } th { font-size: .8rem; color: var(--muted); font-weight: 400; }
td:first-child { min-width: 8rem; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code, pre { font: 13px/1.5 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; }
details { border: 1px solid var(--line); border-radius: .5rem; margin: .6rem 0; overflow: hidden; } details:target { outline: 2px solid var(--changed); }
summary { padding: .45rem .8rem; cursor: pointer; background: var(--soft); overflow-wrap: anywhere; }
.sides { display: grid; grid-template-columns: 1fr 1fr; border-top: 1px solid var(--line); } .sides > div { padding: .5rem .8rem; min-width: 0; } .sides > div + div { border-left: 1px solid var(--line); }
.sides .muted { font-size: .8rem; } .path { grid-column: 1 / -1; } .change { border-top: 1px solid var(--line); } .change .path { padding-bottom: 0; } .change .path + div { border-left: 0; }
mark { color: inherit; border-radius: .2rem; padding: 0 .1rem; } .del mark, mark.del { background: var(--del); } .ins mark, mark.ins { background: var(--ins); }
@media (max-width: 40rem) { .sides { grid-template-columns: 1fr; } .sides > div + div { border-left: 0; padding-top: 0; } }
";

/// The verdict, a timeline of both sides, sessions, and the differences side by side.
pub fn html(heading: &Heading, verdict: &Verdict) -> String {
    let mut out = String::new();
    write_html(&mut out, heading, verdict).expect("a String takes everything");
    out
}

fn write_html(out: &mut String, heading: &Heading, verdict: &Verdict) -> fmt::Result {
    let title = Escaped(&heading.title);
    writeln!(out, "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">")?;
    writeln!(out, "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">")?;
    writeln!(out, "<title>{title}</title><style>{STYLE}</style></head><body>")?;
    let (class, word) = match heading.why_failed(verdict) {
        Some(why) => ("failed", why),
        None if heading.has_passed(verdict) => ("passed", "passed".to_owned()),
        None => ("failed", "failed".to_owned()),
    };
    writeln!(
        out,
        "<header><h1>{title}</h1><span class=\"verdict {class}\">{}</span></header>",
        Escaped(&word)
    )?;
    writeln!(
        out,
        "<p>{} of {} expected {} came as they should ({}).</p>",
        verdict.matched,
        verdict.expected,
        verdict.things(),
        verdict.level
    )?;
    for note in &heading.notes {
        writeln!(out, "<p class=note>{}</p>", Escaped(note))?;
    }
    write_figures(out, verdict)?;
    write_timeline(out, heading, verdict)?;
    write_sessions(out, verdict)?;
    write_differences(out, heading, verdict)?;
    writeln!(out, "</body></html>")
}

fn write_figures(out: &mut String, verdict: &Verdict) -> fmt::Result {
    let figures = [
        ("expected", verdict.expected),
        ("observed", verdict.observed),
        ("matched", verdict.matched),
        ("repeated", verdict.repeated),
        ("differences", verdict.difference_count()),
    ];
    write!(out, "<dl>")?;
    for (name, figure) in figures {
        write!(out, "<div><dt>{name}</dt><dd>{figure}</dd></div>")?;
    }
    for kind in DifferenceKind::ALL.into_iter().filter(|kind| verdict.count(*kind) > 0) {
        let (name, count) = (kind.name(), verdict.count(kind));
        write!(out, "<div><dt>{name}</dt><dd class=\"kind {name}\">{count}</dd></div>")?;
    }
    writeln!(out, "</dl>")
}

/// Bars of how much came when, with differences marked below; each side in its own time.
fn write_timeline(out: &mut String, heading: &Heading, verdict: &Verdict) -> fmt::Result {
    let [expected, observed] = [&verdict.timeline.expected, &verdict.timeline.observed];
    let end = |times: &[Duration]| times.iter().max().copied().unwrap_or_default();
    let bars = [expected, observed].map(|times| binned(times, end(times)));
    let most = bars.iter().flatten().max().copied().unwrap_or_default();
    if most == 0 {
        return Ok(());
    }
    writeln!(out, "<h2>Timeline</h2>")?;
    for (index, times) in [expected, observed].into_iter().enumerate() {
        let end = end(times);
        writeln!(
            out,
            "<figure><figcaption><span>{}</span><span class=muted>{} in {:.3} s</span></figcaption>",
            Escaped(&heading.sides[index]),
            times.len(),
            end.as_secs_f64()
        )?;
        write!(
            out,
            "<svg class=bars viewBox=\"0 0 {COLUMNS} {HEIGHT}\" preserveAspectRatio=none role=img aria-label=\"{} over time\">",
            verdict.things()
        )?;
        for (column, &count) in bars[index].iter().enumerate().filter(|(_, count)| **count > 0) {
            let bar = (count as f64 / most as f64 * HEIGHT).max(1.0);
            write!(
                out,
                "<rect x={column} y={:.1} width=.9 height={bar:.1}><title>{count}</title></rect>",
                HEIGHT - bar
            )?;
        }
        writeln!(out, "</svg>")?;
        write_marks(out, verdict, index, end)?;
        writeln!(out, "</figure>")?;
    }
    let shown = expected.len() as u64 + observed.len() as u64;
    if shown < verdict.expected + verdict.observed {
        writeln!(out, "<p class=muted>Only the beginning is shown.</p>")?;
    }
    Ok(())
}

/// Where the differences of one side are, each a link to what is said of it.
fn write_marks(out: &mut String, verdict: &Verdict, side: usize, end: Duration) -> fmt::Result {
    write!(out, "<svg class=marks viewBox=\"0 0 {MARKS} 10\" preserveAspectRatio=none>")?;
    let mut marked = BTreeSet::new();
    for (number, difference) in verdict.differences.iter().enumerate() {
        let told = [&difference.expected, &difference.observed][side].as_ref();
        let Some(told) = told.filter(|told| told.place.at <= end) else { continue };
        let x = (share(told.place.at, end) * (MARKS - 4) as f64) as usize;
        let kind = difference.kind.name();
        if marked.insert((x, kind)) {
            let number = number + 1;
            write!(
                out,
                "<a href=\"#d{number}\"><rect class={kind} x={x} y=1 width=4 height=9><title>{kind}</title></rect></a>"
            )?;
        }
    }
    writeln!(out, "</svg>")
}

fn share(at: Duration, end: Duration) -> f64 {
    if end.is_zero() { 0.0 } else { at.as_secs_f64() / end.as_secs_f64() }
}

fn binned(times: &[Duration], end: Duration) -> [u64; COLUMNS] {
    let mut columns = [0; COLUMNS];
    for at in times {
        columns[((share(*at, end) * COLUMNS as f64) as usize).min(COLUMNS - 1)] += 1;
    }
    columns
}

/// Those with most differences first.
fn write_sessions(out: &mut String, verdict: &Verdict) -> fmt::Result {
    if verdict.sessions.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "<h2>Sessions</h2><div class=wide><table><tr><th>session<th class=n>differences<th class=n>expected<th class=n>observed<th class=n>matched</tr>"
    )?;
    let mut sessions: Vec<_> = verdict.sessions.iter().collect();
    sessions.sort_by_key(|session| std::cmp::Reverse(session.differences));
    for session in sessions.iter().take(SESSIONS) {
        let owner = session.owner.to_string();
        let class = if session.differences > 0 { "n kind missing" } else { "n" };
        writeln!(
            out,
            "<tr><td><code>{}</code><td class=\"{class}\">{}<td class=n>{}<td class=n>{}<td class=n>{}</tr>",
            Escaped(&owner),
            session.differences,
            session.expected,
            session.observed,
            session.matched
        )?;
    }
    writeln!(out, "</table></div>")?;
    write_more(out, sessions.len().saturating_sub(SESSIONS) as u64)
}

fn write_differences(out: &mut String, heading: &Heading, verdict: &Verdict) -> fmt::Result {
    if verdict.differences.is_empty() {
        return Ok(());
    }
    writeln!(out, "<h2>Differences</h2>")?;
    for (index, difference) in verdict.differences.iter().enumerate() {
        write_difference(out, heading, index + 1, difference)?;
    }
    if verdict.consequences > 0 {
        writeln!(out, "<p class=muted>{} packets of their exchanges differ, too.</p>", verdict.consequences)?;
    }
    write_more(out, verdict.difference_count().saturating_sub(verdict.differences.len() as u64))
}

fn write_more(out: &mut String, more: u64) -> fmt::Result {
    match more {
        0 => Ok(()),
        more => writeln!(out, "<p class=muted>and {more} more</p>"),
    }
}

fn write_difference(
    out: &mut String,
    heading: &Heading,
    number: usize,
    difference: &Difference,
) -> fmt::Result {
    let (owner, subject) = (difference.owner.to_string(), difference.subject.to_string());
    let kind = difference.kind.name();
    let open = if number <= UNFOLDED { " open" } else { "" };
    writeln!(
        out,
        "<details id=d{number}{open}><summary><span class=\"kind {kind}\">{kind}</span> <code>{}</code> <span class=muted>{}</span> <code>{}</code> <span class=muted>{}</span></summary>",
        Escaped(&owner),
        difference.direction.name(),
        Escaped(&subject),
        Escaped(&difference.remark),
    )?;
    if difference.kind != DifferenceKind::Count {
        write_sides(out, heading, difference)?;
    }
    for change in &difference.changes {
        write_change(out, change)?;
    }
    writeln!(out, "</details>")
}

fn write_sides(out: &mut String, heading: &Heading, difference: &Difference) -> fmt::Result {
    let [expected, observed] = [&difference.expected, &difference.observed].map(Option::as_ref);
    let texts = [expected, observed].map(|told| told.map_or("", |told| told.text.as_str()));
    let (ahead, behind) = common_ends(texts[0], texts[1]);
    writeln!(out, "<div class=sides>")?;
    for (index, told) in [expected, observed].into_iter().enumerate() {
        let is_changed = difference.kind == DifferenceKind::Changed;
        let ends = if is_changed { (ahead, behind) } else { (texts[index].len(), 0) };
        write_side(out, &heading.sides[index], told, ["del", "ins"][index], ends)?;
    }
    writeln!(out, "</div>")
}

/// A packet of one side; what lies between the bytes that both begin and end with is marked.
fn write_side(
    out: &mut String,
    side: &str,
    told: Option<&Told>,
    class: &str,
    (ahead, behind): (usize, usize),
) -> fmt::Result {
    let Some(told) = told else {
        return writeln!(out, "<div class=muted>{}: nothing</div>", Escaped(side));
    };
    let text = told.text.as_str();
    let (start, end) = (&text[..ahead], &text[text.len() - behind..]);
    let between = &text[ahead..text.len() - behind];
    write!(
        out,
        "<div class={class}><span class=muted>{} · {:.3} s · #{}</span><pre>{}",
        Escaped(side),
        told.place.at.as_secs_f64(),
        told.place.seq,
        Escaped(start),
    )?;
    if !between.is_empty() {
        write!(out, "<mark>{}</mark>", Escaped(between))?;
    }
    writeln!(out, "{}</pre></div>", Escaped(end))
}

fn write_change(out: &mut String, change: &Change) -> fmt::Result {
    let value = |value: &Option<String>, class: &str| match value {
        Some(value) => format!("<code><mark class={class}>{}</mark></code>", Escaped(value)),
        None => "<span class=muted>nothing</span>".to_owned(),
    };
    writeln!(
        out,
        "<div class=\"sides change\"><div class=path><code>{}</code></div><div>{}</div><div>{}</div></div>",
        Escaped(&change.path),
        value(&change.expected, "del"),
        value(&change.observed, "ins"),
    )
}

/// Bytes that both texts begin with and end with, but for parts of words.
fn common_ends(one: &str, other: &str) -> (usize, usize) {
    let same = |(one, other): &((usize, char), char)| one.1 == *other;
    let ahead: usize = one
        .char_indices()
        .zip(other.chars())
        .take_while(same)
        .map(|((_, letter), _)| letter.len_utf8())
        .sum();
    let (rest, other_rest) = (&one[ahead..], &other[ahead..]);
    let pairs = rest.chars().rev().zip(other_rest.chars().rev());
    let behind: usize =
        pairs.take_while(|(one, other)| one == other).map(|(letter, _)| letter.len_utf8()).sum();
    let (start, end) = (&one[..ahead], &one[one.len() - behind..]);
    let is_apart = |letter: char| !letter.is_alphanumeric();
    let ahead = start.char_indices().rfind(|(_, letter)| is_apart(*letter));
    let ahead = ahead.map_or(0, |(index, letter)| index + letter.len_utf8());
    let behind = end.find(is_apart).map_or(0, |index| end.len() - index);
    (ahead, behind)
}
