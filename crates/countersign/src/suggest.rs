//! "Did you mean …?"

/// From here on two names are so alike that one is likely a typo of the other (Jaro similarity, from 0 to 1). For flags `clap`
/// takes 0.7; then `listen` would be a typo of `store`.
const ALIKE: f64 = 0.8;

/// The candidate that is most like a name; `None` if none is much like it.
pub(crate) fn similar<'c>(name: &str, candidates: impl Iterator<Item = &'c str>) -> Option<String> {
    let alike = candidates.map(|candidate| (strsim::jaro(name, candidate), candidate));
    let best = alike.filter(|(score, _)| *score > ALIKE).max_by(|(a, _), (b, _)| a.total_cmp(b));
    best.map(|(_, candidate)| candidate.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelled_setting_suggests_its_name() {
        let names = ["store", "issuer", "public_listen"];
        assert_eq!(similar("stroe", names.into_iter()).as_deref(), Some("store"));
        assert_eq!(similar("public-listen", names.into_iter()).as_deref(), Some("public_listen"));
        assert_eq!(similar("colour", names.into_iter()), None);
        assert_eq!(similar("listen", names.into_iter()), None);
    }
}
