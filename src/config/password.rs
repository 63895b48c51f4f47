//! Where a password comes from, in libpq's order: the connection string, then
//! the key `password_file`, `PGPASSWORD`, and at last the password file of
//! libpq (`passfile`, `PGPASSFILE`, `~/.pgpass`).

use std::fs;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::dsn::{Dsn, Written};
use super::plain_file;
use super::problem::Problems;
use super::reader::Environment;

/// No password file is longer; a wrong path may be a device or a disk image.
const FILE_LIMIT: u64 = 1024 * 1024;

/// The directories of the default unix socket, which libpq's password file
/// calls `localhost`.
const SOCKET_DIRECTORIES: [&str; 3] = ["/var/run/postgresql", "/run/postgresql", "/tmp"];

/// The first password of those sources that have one; an error is a sentence
/// about `password_file`.
pub(super) fn find(
    name: &str,
    dsn: &Dsn,
    written: &Written,
    password_file: Option<&Path>,
    environment: Environment<'_>,
    problems: &Problems,
) -> Result<Option<String>, String> {
    if written.password.is_some() {
        if password_file.is_some() {
            problems.warn(format!(
                "\"{name}\" has a password in its dsn: its password_file is not read"
            ));
        }
        return Ok(written.password.clone());
    }
    if let Some(path) = password_file {
        return read_secret(path).map(Some);
    }
    let variable = |key: &str| environment(key).filter(|value| !value.is_empty());
    if let Some(password) = variable("PGPASSWORD") {
        return Ok(Some(password));
    }
    let named = written
        .passfile
        .clone()
        .or_else(|| variable("PGPASSFILE").map(PathBuf::from));
    let home = || variable("HOME").map(|home| Path::new(&home).join(".pgpass"));
    let Some(path) = named.clone().or_else(home) else {
        return Ok(None);
    };
    match read_passfile(&path) {
        Ok(text) => Ok(lookup(&text, dsn)),
        // Having no ~/.pgpass is normal.
        Err(Unread::Missing) if named.is_none() => Ok(None),
        Err(why) => {
            problems.warn(format!(
                "\"{name}\": the password file {} is ignored: {why}",
                path.display()
            ));
            Ok(None)
        }
    }
}

/// A file that holds one password. One line break at its end is an editor's.
fn read_secret(path: &Path) -> Result<String, String> {
    let text =
        read_bounded(path).map_err(|error| format!("password_file cannot be read: {error}"))?;
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    if password.is_empty() {
        return Err("password_file is empty; write the password into it".to_owned());
    }
    if password.contains('\n') {
        return Err(
            "password_file has more than one line; it must hold the password only".to_owned(),
        );
    }
    Ok(password.to_owned())
}

fn read_bounded(path: &Path) -> std::io::Result<String> {
    let bytes = plain_file::read(path, FILE_LIMIT)?;
    String::from_utf8(bytes).map_err(|error| Error::new(ErrorKind::InvalidData, error.utf8_error()))
}

#[derive(Debug, thiserror::Error)]
enum Unread {
    #[error("it does not exist")]
    Missing,
    #[error("it is not a plain file")]
    NoFile,
    #[error("group or others may read it; run chmod 0600 on it")]
    Open,
    #[error("{0}")]
    Io(std::io::Error),
}

/// libpq refuses a password file that others can read, and so do we.
fn read_passfile(path: &Path) -> Result<String, Unread> {
    let metadata = fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Unread::Missing,
        _ => Unread::Io(error),
    })?;
    if !metadata.is_file() {
        return Err(Unread::NoFile);
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(Unread::Open);
    }
    read_bounded(path).map_err(Unread::Io)
}

/// The first line `host:port:database:user:password` that matches.
fn lookup(text: &str, dsn: &Dsn) -> Option<String> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .find_map(|line| {
            let mut fields = split_fields(line).into_iter();
            let mut matches = |wanted: &str| {
                fields
                    .next()
                    .is_some_and(|field| field.raw == "*" || field.value == wanted)
            };
            let local = SOCKET_DIRECTORIES.contains(&dsn.host.as_str());
            let host = if local { "localhost" } else { &dsn.host };
            let matched = matches(host)
                && matches(&dsn.port.to_string())
                && matches(&dsn.database)
                && matches(&dsn.user);
            if !matched {
                return None;
            }
            fields.next().map(|field| field.value)
        })
        .filter(|password| !password.is_empty())
}

struct Field<'a> {
    raw: &'a str,
    value: String,
}

/// Fields end at a colon that no backslash precedes.
fn split_fields(line: &str) -> Vec<Field<'_>> {
    let mut fields = Vec::new();
    let mut start = 0;
    let mut value = String::new();
    let mut characters = line.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '\\' => value.push(characters.next().map_or('\\', |(_, escaped)| escaped)),
            ':' => {
                fields.push(Field {
                    raw: &line[start..at],
                    value: std::mem::take(&mut value),
                });
                start = at + 1;
            }
            c => value.push(c),
        }
    }
    fields.push(Field {
        raw: &line[start..],
        value,
    });
    fields
}
