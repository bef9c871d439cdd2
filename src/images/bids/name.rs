//! BIDS names: `sub-01_task-rest_bold` → entities and suffix, and back in the order of the specification.

use std::fmt;

/// The keys of entities in the order of a name: BIDS 1.11.2, `rules.entities` of its schema 2.0.1.
const ORDER: [&str; 35] = [
    "sub",
    "tpl",
    "ses",
    "cohort",
    "sample",
    "task",
    "tracksys",
    "acq",
    "nuc",
    "voi",
    "ce",
    "trc",
    "stain",
    "rec",
    "dir",
    "run",
    "mod",
    "echo",
    "flip",
    "inv",
    "mt",
    "part",
    "proc",
    "hemi",
    "space",
    "split",
    "recording",
    "chunk",
    "atlas",
    "seg",
    "scale",
    "res",
    "den",
    "label",
    "desc",
];

/// The entities whose value is a number: `run-1` and `run-01` are the same run.
const NUMBERED: [&str; 6] = ["run", "echo", "flip", "inv", "split", "chunk"];

/// The stem of an image's file name: entities (`key-label`) and a suffix, joined by `_`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BidsName<'a> {
    /// In the order of the specification; other keys come directly before `desc`, in the order of the name.
    entities: Vec<(&'a str, &'a str)>,
    suffix: &'a str,
}

impl<'a> BidsName<'a> {
    /// Parses the stem of a file name, in any order of its entities.
    ///
    /// # Errors
    /// Why this is not a BIDS name.
    pub fn parse(stem: &'a str) -> Result<Self, NotBids> {
        let (entities, suffix) = stem.rsplit_once('_').ok_or(NotBids::NoEntities)?;
        let is_word = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !is_word(suffix) {
            return Err(NotBids::Suffix(suffix.to_owned()));
        }
        let mut parsed: Vec<(&str, &str)> = Vec::new();
        for entity in entities.split('_') {
            let pair = entity.split_once('-');
            let Some((key, label)) = pair.filter(|(key, label)| is_word(key) && is_label(label)) else {
                return Err(NotBids::Entity(entity.to_owned()));
            };
            if let Some((_, first)) = parsed.iter().find(|(other, _)| *other == key) {
                return Err(NotBids::Twice(format!("{key}-{first} and {key}-{label}")));
            }
            parsed.push((key, label));
        }
        parsed.sort_by_key(|(key, _)| rank(key));
        let entities = parsed;
        Ok(Self { entities, suffix })
    }

    /// The label of an entity: `get("task")` of `sub-01_task-rest_bold` is `rest`.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        let entity = self.entities.iter().find(|(other, _)| *other == key);
        entity.map(|(_, label)| *label)
    }

    /// The suffix: `bold` of `sub-01_task-rest_bold`.
    pub fn suffix(&self) -> &'a str {
        self.suffix
    }

    /// The same name with another label of one entity, which is added if it is missing.
    #[must_use]
    pub fn with(mut self, key: &'a str, label: &'a str) -> Self {
        self.entities.retain(|(other, _)| *other != key);
        let place = self
            .entities
            .partition_point(|(other, _)| rank(other) <= rank(key));
        self.entities.insert(place, (key, label));
        self
    }

    /// The number of entities, if an image with the other name has all of them and the same suffix. Metadata
    /// of this name then apply to it.
    pub(super) fn applies_to(&self, image: &BidsName<'_>) -> Option<usize> {
        let has = |(key, label): &(&str, &str)| image.get(key) == Some(*label);
        let applies = self.suffix == image.suffix && self.entities.iter().all(has);
        applies.then_some(self.entities.len())
    }

    /// Whether two labels of an entity mean the same.
    pub fn same_label(key: &str, a: &str, b: &str) -> bool {
        let number = |text: &str| text.parse::<u64>().ok();
        a == b || (NUMBERED.contains(&key) && number(a).is_some() && number(a) == number(b))
    }
}

impl fmt::Display for BidsName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, label) in &self.entities {
            write!(f, "{key}-{label}_")?;
        }
        f.write_str(self.suffix)
    }
}

/// Whether BIDS has an entity with this key.
pub(in crate::images) fn is_entity(key: &str) -> bool {
    ORDER.contains(&key)
}

/// Whether a text can be the label of an entity.
pub fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'+')
}

/// The place of an entity in a name.
fn rank(key: &str) -> usize {
    const DESC: usize = ORDER.len() - 1;
    let known = ORDER.iter().position(|known| *known == key);
    // Twice the place leaves room before `desc`.
    known.map_or(2 * DESC - 1, |place| 2 * place)
}

/// Why a file's stem is not a BIDS name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotBids {
    /// It has no entity.
    NoEntities,
    /// A part is not `key-label`.
    Entity(String),
    /// Its suffix is not a word.
    Suffix(String),
    /// It has two labels of one entity, so that its meaning is not clear.
    Twice(String),
}

impl fmt::Display for NotBids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotBids::NoEntities => f.write_str("the name has no entity such as sub-01"),
            NotBids::Entity(entity) => write!(f, "{entity:?} is not an entity such as task-rest"),
            NotBids::Suffix(suffix) => write!(f, "{suffix:?} is not a suffix such as bold"),
            NotBids::Twice(both) => write!(f, "the name has both {both}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_rebuilt_in_the_order_of_the_specification() {
        for (name, rebuilt) in [
            ("sub-01_T1w", "sub-01_T1w"),
            ("sub-01_run-02_task-rest_bold", "sub-01_task-rest_run-02_bold"),
            (
                "desc-preproc_res-2_space-MNI152NLin2009cAsym_task-rest_ses-a_sub-01_bold",
                "sub-01_ses-a_task-rest_space-MNI152NLin2009cAsym_res-2_desc-preproc_bold",
            ),
            (
                "sub-1_desc-x_own-2_other-3_den-1_T1w",
                "sub-1_den-1_own-2_other-3_desc-x_T1w",
            ),
        ] {
            assert_eq!(BidsName::parse(name).unwrap().to_string(), rebuilt);
        }
        let all: Vec<String> = ORDER.iter().rev().map(|key| format!("{key}-1")).collect();
        let all = format!("{}_bold", all.join("_"));
        let rebuilt = BidsName::parse(&all).unwrap().to_string();
        let keys = rebuilt.split('_').filter_map(|part| part.split_once('-'));
        assert!(keys.map(|(key, _)| key).eq(ORDER));
    }

    #[test]
    fn labels_are_read_and_replaced() {
        let name = BidsName::parse("sub-01_task-rest_desc-preproc_bold").unwrap();
        assert_eq!((name.get("task"), name.get("ses")), (Some("rest"), None));
        assert_eq!(name.suffix(), "bold");
        let smoothed = name.with("desc", "sm6").with("ses", "a").with("own", "1");
        assert_eq!(smoothed.to_string(), "sub-01_ses-a_task-rest_own-1_desc-sm6_bold");
        assert!(BidsName::same_label("run", "1", "01") && !BidsName::same_label("sub", "1", "01"));
        assert!(!BidsName::same_label("run", "x", "y"));
    }

    #[test]
    fn other_names_are_refused_with_the_reason() {
        for (name, reason) in [
            ("T1w", "no entity"),
            ("", "no entity"),
            ("sub-01", "no entity"),
            ("sub-01_bold.dtseries", "\"bold.dtseries\" is not a suffix"),
            ("sub-01_", "\"\" is not a suffix"),
            ("sub-01_T1w_mask", "\"T1w\" is not an entity"),
            ("sub-_T1w", "\"sub-\" is not an entity"),
            ("sub-a-b_T1w", "\"sub-a-b\" is not an entity"),
            ("_T1w", "\"\" is not an entity"),
            ("sub-01_run-1_run-2_bold", "both run-1 and run-2"),
        ] {
            let error = BidsName::parse(name).unwrap_err().to_string();
            assert!(error.contains(reason), "{name}: {error}");
        }
    }
}
