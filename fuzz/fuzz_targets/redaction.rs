//! A statement of literals and the text between them, and then any text at all:
//! no literal leaves it, wherever it is cut, and what leaves it is bounded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use snowpit::observe::sql;

/// In every literal, and nowhere else.
const SECRET: &str = "Zq7geheim";

/// What statements have between literals.
const GLUE: [&str; 12] = [
    ", ",
    " and \"a'b\" = ",
    " || ",
    "\n--don't\n+",
    " /* it's */ ",
    "::text, $1, ",
    " t$1 = ",
    " like ",
    " escape ",
    ");select (",
    "\n",
    " /* a /* b */ c */ ",
];

/// The literal that means `inner`, in the way of writing that `kind` chooses.
fn literal(kind: u8, inner: &str) -> String {
    match kind % 7 {
        0 => format!("'{}'", inner.replace('\'', "''")),
        1 => format!("E'{}'", inner.replace('\\', "\\\\").replace('\'', "\\'")),
        2 => format!("e'{}'", inner.replace('\\', "\\\\").replace('\'', "''")),
        3 => format!("U&'{}'", inner.replace('\\', "").replace('\'', "''")),
        4 => format!("$q1_${}$q1_$", inner.replace('$', "")),
        5 => format!("$${}$$", inner.replace('$', "")),
        _ => format!("N'{}'", inner.replace('\'', "''")),
    }
}

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let whole = sql::read(&text).text;
    assert!(whole.chars().count() <= 1024);

    let mut statement = String::from("select ");
    let mut words = data.split(|byte| *byte == b'\n');
    while let (Some([kind, glue, before @ ..]), Some(after)) = (words.next(), words.next()) {
        let (before, after) = (
            String::from_utf8_lossy(before),
            String::from_utf8_lossy(after),
        );
        statement.push_str(&literal(*kind, &format!("{before}{SECRET}{after}")));
        statement.push_str(GLUE[usize::from(*glue) % GLUE.len()]);
    }
    for (end, _) in statement.char_indices().rev().take(300) {
        let said = sql::read(&statement[..end]).text;
        assert!(
            !said.contains(SECRET),
            "{statement:?} cut at {end} -> {said:?}"
        );
    }
    let said = sql::read(&statement).text;
    assert!(!said.contains(SECRET), "{statement:?} -> {said:?}");
});
