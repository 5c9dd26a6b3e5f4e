//! Comparing names without regard to case, in any script and alike on every engine.

/// The longest needle that is looked for, in bytes. Names are far shorter, so nothing longer can be
/// contained in one, and SQLite refuses patterns above 50,000 bytes.
const LONGEST_NEEDLE: usize = 16 * 1024;

/// The form in which names are compared. Letter by letter to upper and then to lower case: unlike
/// `str::to_lowercase` this does not look at neighbours (final sigma), so that a part of a name
/// folds to a part of the folded name, and `ß` equals `SS`.
pub(crate) fn folded(text: &str) -> String {
    text.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

/// A pattern for `LIKE … ESCAPE '\'` that finds the folded needle literally; `None` if no name can contain it.
pub(crate) fn containing(folded_needle: &str) -> Option<String> {
    if folded_needle.len() > LONGEST_NEEDLE || folded_needle.contains('\0') {
        return None;
    }
    let mut pattern = String::with_capacity(folded_needle.len() + 2);
    pattern.push('%');
    for c in folded_needle.chars() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('%');
    Some(pattern)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_name_folds_to_a_part_of_the_folded_name() {
        for (name, part) in
            [("ÉTÉ 2026", "été"), ("ΟΔΟΣΑ", "ΟΔΟΣ"), ("οδος", "ΟΔΟΣ"), ("Straße", "STRASSE"), ("İx", "i\u{307}X")]
        {
            assert!(folded(name).contains(&folded(part)), "{name} has {part}");
        }
    }

    #[test]
    fn wildcards_in_a_needle_are_only_letters() {
        assert_eq!(containing(r"50%_\").as_deref(), Some(r"%50\%\_\\%"));
        assert_eq!(containing("a\0"), None);
        assert_eq!(containing(&"x".repeat(LONGEST_NEEDLE + 1)), None);
    }
}
