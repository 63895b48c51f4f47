//! The walls of the house, read from the sources.
//!
//! The engine is pure: it gets time and samples as parameters, and never looks
//! at a clock, a file, a socket or a task. What the compiler cannot forbid is
//! forbidden here.

use std::fs;
use std::path::{Path, PathBuf};

/// A file longer than this, its tests left out, is more than one thing.
const LINE_LIMIT: usize = 500;

/// What would make the engine depend on more than its arguments.
const IMPURE: &[&str] = &[
    "tokio",
    "tracing",
    "async fn",
    "async move",
    "async {",
    ".await",
    "std::env",
    "std::fs",
    "std::io",
    "std::process",
    "std::thread",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::ToSocketAddrs",
    "std::net::UdpSocket",
    "std::os",
    "std::time::Instant",
    "std::time::SystemTime",
    "::now(",
];

/// What would make it talk. A test may, about what it measured.
const LOUD: &[&str] = &["println!", "eprintln!", "print!", "eprint!", "dbg!"];

/// What begins the tests at the end of a file.
const TESTS: &str = "#[cfg(test)]";

/// The rooms around the engine, which know it and which it does not know.
const ROOMS: &[&str] = &[
    "capture", "cli", "config", "daemon", "demo", "eval", "expose", "listen", "observe", "replay",
];

#[test]
fn the_engine_is_pure() {
    let files = sources(&root().join("src/engine"));
    assert!(files.len() > 10, "the engine was not found: {files:?}");
    let mut found = Vec::new();
    for file in files {
        let mut source = read(&file);
        if file.ends_with("tests.rs") {
            source.insert_str(0, &format!("{TESTS}\n"));
        }
        for violation in impurities(&source) {
            found.push(format!("{}: {violation}", file.display()));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_vocabulary_knows_nobody() {
    let code = code_of(&read(&root().join("src/sample.rs")));
    assert!(
        !code.contains("crate::"),
        "sample.rs must not use another module"
    );
    assert!(
        !code.contains("super::"),
        "sample.rs must not use another module"
    );
}

#[test]
fn a_file_is_one_thing_and_says_which() {
    let mut found = Vec::new();
    for file in sources(&root().join("src")) {
        let text = read(&file);
        let lines = text.lines().take_while(|line| *line != TESTS).count();
        if lines > LINE_LIMIT && !file.ends_with("tests.rs") {
            found.push(format!("{} has {lines} lines: split it", file.display()));
        }
        if !text.starts_with("//!") && !file.ends_with("tests.rs") {
            found.push(format!("{} does not open with //!", file.display()));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn an_impurity_is_noticed() {
    let cases = [
        ("use tokio::sync::mpsc;", "tokio"),
        ("async fn look() {}", "async fn"),
        ("fn f() { let t = Instant::now(); }", "::now("),
        (
            "use std::time::{Duration, SystemTime};",
            "std::time::SystemTime",
        ),
        ("use std::{collections::HashMap, fs};", "std::fs"),
        ("use std::{collections::HashMap, fs as disk};", "std::fs"),
        (
            "use std::{net::{IpAddr, TcpStream}};",
            "std::net::TcpStream",
        ),
        ("fn f() { std::fs::read(\"x\"); }", "std::fs"),
        ("fn f() { println!(\"x\"); }", "println!"),
        ("use crate::config::Config;", "crate::config"),
        ("#[cfg(test)]\nmod tests { use std::fs; }", "std::fs"),
        ("use crate::{observe, sample};", "crate::observe"),
        ("use super::super::expose::metrics;", "super::expose"),
        (
            "fn f() { let c = '\"'; println!(); let d = '\"'; }",
            "println!",
        ),
        ("fn f<'a>(x: &'a str) { println!(); }", "println!"),
        ("fn f() { g(r#\"a\"b\"#); println!(); }", "println!"),
    ];
    for (source, expected) in cases {
        let found = impurities(source);
        assert!(
            found.iter().any(|f| f.contains(expected)),
            "{source}: {found:?}"
        );
    }
}

#[test]
fn plain_code_is_left_alone() {
    let sources = [
        "//! No tokio, no std::fs, no SystemTime::now().\nfn f() {}",
        "/* println!(std::fs) /* tokio */ crate::config */ fn f() {}",
        "fn f() -> &'static str { \"tokio std::fs \\\" crate::config ::now(\" }",
        "use std::net::{IpAddr, Ipv4Addr};\nuse std::time::Duration;",
        "use crate::sample::Sample;\nuse super::settings::Settings;",
        "fn f() { let configuration = 1; self.observe(2); }",
        "fn f() {}\n#[cfg(test)]\nmod tests { fn t() { println!(); } }",
    ];
    for source in sources {
        assert_eq!(impurities(source), Vec::<String>::new(), "{source}");
    }
}

/// Every forbidden thing in a source, and the rooms it reaches into.
fn impurities(source: &str) -> Vec<String> {
    let code = code_of(source);
    let mut text = code.clone();
    for path in imports(&code) {
        text.push('\n');
        text.push_str(&path);
        text.push(';');
    }
    let rooms = ROOMS
        .iter()
        .flat_map(|room| [format!("crate::{room}"), format!("super::{room}")]);
    let forbidden = IMPURE.iter().map(|word| (*word).to_owned()).chain(rooms);
    let mut found: Vec<String> = forbidden.filter(|word| has_word(&text, word)).collect();
    let product = code.split(TESTS).next().unwrap_or_default();
    let loud = LOUD.iter().filter(|word| has_word(product, word));
    found.extend(loud.map(|word| (*word).to_owned()));
    found
}

/// Whether `word` stands in the text and not inside a longer name.
fn has_word(text: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        let joined_before = word.starts_with(is_name) && before.is_some_and(is_name);
        let joined_after = word.ends_with(is_name) && after.is_some_and(is_name);
        !joined_before && !joined_after
    })
}

/// The paths of every `use`, with its braces opened.
fn imports(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let rest = &code[at + 4..];
        // A new name does not hide the old one.
        let tree: String = rest[..rest.find(';').unwrap_or(rest.len())]
            .replace(" as ", "; as ")
            .split_whitespace()
            .collect();
        open_braces("", &tree, &mut paths);
    }
    paths
}

fn open_braces(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let mut depth = 0;
    let mut start = 0;
    let mut branches = Vec::new();
    for (at, c) in tree.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                branches.push(&tree[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    branches.push(&tree[start..]);
    for branch in branches {
        match branch.split_once('{') {
            Some((head, inner)) => {
                let inner = inner.strip_suffix('}').unwrap_or(inner);
                open_braces(&format!("{prefix}{head}"), inner, paths);
            }
            None => paths.push(format!("{prefix}{branch}")),
        }
    }
}

/// The source without its comments and without what stands in its strings.
fn code_of(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if rest.starts_with("r\"") || rest.starts_with("r#") {
            raw_string(rest)
        } else if c == '"' {
            string(rest)
        } else if c == '\'' {
            character(rest)
        } else {
            0
        };
        let step = if skipped > 0 {
            skipped
        } else {
            code.push(c);
            c.len_utf8()
        };
        rest = &rest[step..];
    }
    code
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

fn raw_string(text: &str) -> usize {
    let hashes = text[1..].chars().take_while(|c| *c == '#').count();
    let body = 1 + hashes;
    if !text[body..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    text[body + 1..]
        .find(&end)
        .map_or(text.len(), |at| body + 1 + at + end.len())
}

fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of a character literal, 0 for a lifetime.
fn character(text: &str) -> usize {
    let mut characters = text.char_indices().skip(1);
    match characters.next() {
        Some((_, '\\')) => text[2..]
            .char_indices()
            .skip(1)
            .find(|(_, c)| *c == '\'')
            .map_or(0, |(at, _)| at + 3),
        Some(_) => match characters.next() {
            Some((at, '\'')) => at + 1,
            _ => 0,
        },
        None => 0,
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every Rust file below a directory.
fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}
